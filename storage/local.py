"""The store on local (or mounted) files: everything moves by rename and hard link, and is on the disk before it is visible."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from schemas.problems import StoreError
from storage.backends import Backend, Entry
from storage.errors import translated

TEMPORARY = ".tmp-"
"""Prefix of files on their way to their name; listings leave them out and gc removes old ones."""

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalBackend(Backend):
    """Objects are files under ``root``.

    ``create`` writes a temporary file in the same folder, flushes it and hard-links it to its name, which fails if the name is
    taken. On file systems without hard links it falls back to an exclusive create: still one winner, but a crash in the
    middle can leave a cut-off manifest, which the store treats as absent and replaces.
    """

    folders = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = self.address = str(root)

    def check_address(self) -> None:
        there = next(place for place in (self.root, *self.root.parents) if os.path.lexists(place))
        if not os.path.isdir(there):
            raise StoreError("store_denied", f"Nothing can be put at {self.url}: {there} is no folder.", "Choose another folder.")

    def prepare(self, *, make: bool = True) -> None:
        with translated("opening it", self.url):
            if make:
                os.makedirs(self.root, exist_ok=True)
            if os.path.lexists(self.root) and not os.path.isdir(self.root):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", self.url)

    def local_path(self, path: str) -> Path:
        return self.root / path

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes | None:
        with translated(f"reading {path}", self.url):
            try:
                with open(self.root / path, "rb") as file:
                    file.seek(start)
                    return file.read(-1 if length is None else length)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        found = {path: self.read(path) for path in paths}
        return {path: data for path, data in found.items() if data is not None}

    def create(self, path: str, data: bytes) -> bool:
        with translated(f"publishing {path}", self.url):
            final = self.root / path
            self._make_safe_folders(final.parent)
            temporary = self._write_temporary(final, data)
            try:
                os.link(temporary, final)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if not self._create_exclusively(final, data):
                    return False
            finally:
                os.unlink(temporary)
            _flush(final.parent)
            return True

    def replace(self, path: str, data: bytes) -> None:
        with translated(f"writing {path}", self.url):
            final = self.root / path
            self._make_safe_folders(final.parent)
            os.replace(self._write_temporary(final, data), final)
            _flush(final.parent)

    def adopt(self, directory: Path, files: Sequence[str], target: str) -> None:
        if not files:
            return
        with translated(f"storing {target}", self.url):
            folder = self.root / target
            os.utime(directory)  # gc tells by it how long ago the attempt arrived
            changed = {folder.parent, *self._make_folders(folder.parent)}
            try:
                changed.update(self._rename(directory, folder))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # Scratch on another disk: copy beside the final place, so that the last step is again one rename.
                beside = folder.parent / f"{TEMPORARY}{folder.name}"
                shutil.copytree(directory, beside)
                os.utime(beside)
                changed.update(self._rename(beside, folder))
                remove_tree(directory)
            # Flushed under its final name, so that one wait covers contents and names. A crash before leaves an orphan at most.
            flush(folder, files, changed)

    def _rename(self, directory: Path, folder: Path) -> list[Path]:
        """Move a folder; gives back other folders that hold new names."""
        try:
            os.rename(directory, folder)
            return []
        except FileNotFoundError:
            # gc of another process has just removed the key's folder because it was empty.
            changed = self._make_folders(folder.parent)
            os.rename(directory, folder)
            return changed

    def upload(self, local: Path, path: str) -> None:
        with translated(f"writing {path}", self.url):
            final = self.root / path
            self._make_safe_folders(final.parent)
            temporary = final.parent / _temporary_name(final.name)
            shutil.copyfile(local, temporary)
            _flush(temporary)
            os.replace(temporary, final)
            _flush(final.parent)

    def download(self, path: str, local: Path) -> None:
        if not (self.root / path).exists():
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        with translated(f"reading {path}", self.url):
            shutil.copyfile(self.root / path, local)

    def names(self, folder: str) -> dict[str, Entry]:
        with translated(f"listing {folder}", self.url):
            try:
                with os.scandir(self.root / folder) as found:
                    items = [item for item in found if not item.name.startswith(TEMPORARY) and item.is_file()]
            except (FileNotFoundError, NotADirectoryError):
                return {}
            entries = {}
            for item in items:
                try:
                    entries[item.name] = _entry(item.stat())
                except FileNotFoundError:
                    continue  # removed by another process since the folder was listed
            return entries

    def subfolders(self, folder: str) -> list[str]:
        with translated(f"listing {folder}", self.url):
            try:
                with os.scandir(self.root / folder) as found:
                    return sorted(item.name for item in found if item.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def walk(self, folder: str) -> dict[str, Entry]:
        with translated(f"listing {folder}", self.url):
            found = {}
            for parent, _, names in os.walk(self.root / folder, onerror=_raise_unless_gone):
                for name in names:
                    path = Path(parent, name)
                    try:
                        found[path.relative_to(self.root).as_posix()] = _entry(path.stat())
                    except FileNotFoundError:
                        continue  # removed by another process since the folder was listed
            return found

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            with translated(f"removing {path}", self.url):
                try:
                    os.unlink(self.root / path)
                except (FileNotFoundError, NotADirectoryError):
                    continue

    def delete_tree(self, folder: str) -> None:
        with translated(f"removing {folder}", self.url):
            remove_tree(self.root / folder)
            parent = (self.root / folder).parent
            if parent != self.root:
                try:
                    os.rmdir(parent)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                        raise

    def _write_temporary(self, final: Path, data: bytes) -> Path:
        temporary = final.parent / _temporary_name(final.name)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _create_exclusively(self, final: Path, data: bytes) -> bool:
        try:
            with open(final, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return False
        return True

    def _make_folders(self, folder: Path) -> list[Path]:
        """Make a folder and its parents; gives back the folders that hold new names, which are only safe once flushed."""
        if folder.is_dir():
            return []
        changed = self._make_folders(folder.parent)
        try:
            os.mkdir(folder)
        except FileExistsError:
            # Made by another process, which may not have flushed its name yet.
            if not folder.is_dir():
                raise
        return [*changed, folder.parent]

    def _make_safe_folders(self, folder: Path) -> None:
        for changed in self._make_folders(folder):
            _flush(changed)


def _raise_unless_gone(error: OSError) -> None:
    """What cannot be listed must not look empty: fsck would take it for lost."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def remove_tree(folder: Path) -> None:
    """Remove a folder with all it holds, also while others remove it or add to it."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    shutil.rmtree(folder)


def flush(directory: Path, files: Sequence[str], folders: Iterable[Path] = ()) -> None:
    """Wait until files of a directory, and the folders that name them, are on the disk; ``folders`` are more to wait for."""
    paths = [directory / name for name in files]
    if len(paths) > _FEW and _sync_file_system(directory):
        return
    for path in [*paths, *sorted({directory, *(path.parent for path in paths), *folders})]:
        _flush(path)


_FEW = 4
_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)  # Linux


def _sync_file_system(folder: Path) -> bool:
    """Flush everything on the file system of ``folder``, at once; False where the system has no call for it.

    One wait and one journal commit instead of one per picture: 100 small files take 2 ms instead of 18, and on a busy machine,
    where every wait costs the process its turn, 16 instead of 67. The price is to wait for what others have just written there.
    """
    if _syncfs is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
    return True


def _flush(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_name(name: str) -> str:
    return f"{TEMPORARY}{name}-{secrets.token_hex(6)}"


def _entry(status: os.stat_result) -> Entry:
    return Entry(status.st_size, status.st_mtime, f"{status.st_mtime_ns}-{status.st_ino}")
