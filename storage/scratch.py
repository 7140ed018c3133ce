"""Local scratch folders, one per process, that say whose they are: those of dead processes can be removed safely."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

import psutil

from storage.keys import digest_value
from storage.local import remove_tree

_FOLDER = re.compile(r"(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-(?P<started>\d+)-[0-9a-f]{8}")


def default_parent() -> Path:
    """Where scratch lies for stores that are not on this machine's disks."""
    return Path(tempfile.gettempdir()) / f"headswap-scratch-{os.getuid()}"


def make(parent: Path) -> Path:
    """A new folder of this process."""
    folder = parent / f"{_machine()}-{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    return folder


def remove(folder: Path) -> None:
    remove_tree(folder)


def remove_stale(parent: Path) -> list[Path]:
    """Remove folders of processes of this machine that are no longer alive; gives back which."""
    removed = []
    for folder in stale(parent):
        remove_tree(folder)
        removed.append(folder)
    return removed


def stale(parent: Path) -> list[Path]:
    """Folders whose process, on this machine, is dead. Other machines' folders cannot be judged from here."""
    if not parent.is_dir():
        return []
    found = []
    for folder in sorted(parent.iterdir()):
        match = _FOLDER.fullmatch(folder.name)
        if match and match["machine"] == _machine() and _started(int(match["process"])) != int(match["started"]):
            found.append(folder)
    return found


def foreign(parent: Path) -> list[Path]:
    """Folders of other machines or containers, or of before a reboot, whose processes cannot be asked for from here."""
    if not parent.is_dir():
        return []
    found = [(folder, _FOLDER.fullmatch(folder.name)) for folder in sorted(parent.iterdir())]
    return [folder for folder, match in found if match and match["machine"] != _machine()]


def _started(process: int) -> int | None:
    """When a process began, in clock ticks since the boot; None where there is none. Guards against reused process numbers."""
    try:
        # Not psutil's create_time: it moves when the wall clock is corrected. The name in brackets may hold spaces.
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        # Without /proc a number that is in use again keeps a dead folder until gc removes it by age.
        return 0 if psutil.pid_exists(process) else None


def _machine() -> str:
    """Tells machines, their reboots and containers apart on a shared disk."""
    facts = [os.uname().nodename]
    for path, read in (
        ("/proc/sys/kernel/random/boot_id", lambda path: Path(path).read_text()),
        ("/proc/self/ns/pid", os.readlink),
    ):
        if os.path.lexists(path):
            facts.append(read(path))
    return digest_value(facts)[:8]
