"""The store on local (or mounted) files: everything moves by rename and hard link, and is on the disk before it is visible."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

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
        self.url = str(root)

    def prepare(self) -> None:
        with translated("opening it", self.url):
            os.makedirs(self.root, exist_ok=True)
            if not os.path.isdir(self.root):
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
            self._make_folders(final.parent)
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
            self._make_folders(final.parent)
            os.replace(self._write_temporary(final, data), final)
            _flush(final.parent)

    def adopt(self, directory: Path, files: Sequence[str], target: str) -> None:
        if not files:
            return
        with translated(f"storing {target}", self.url):
            folder = self.root / target
            self._make_folders(folder.parent)
            flush(directory, files)
            os.utime(directory)  # gc tells by it how long ago the attempt arrived
            try:
                self._rename(directory, folder)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # Scratch on another disk: copy beside the final place, so that the last step is again one rename.
                beside = folder.parent / f"{TEMPORARY}{folder.name}"
                shutil.copytree(directory, beside)
                flush(beside, files)
                os.utime(beside)
                self._rename(beside, folder)
                remove_tree(directory)
            _flush(folder.parent)

    def _rename(self, directory: Path, folder: Path) -> None:
        try:
            os.rename(directory, folder)
        except FileNotFoundError:
            # gc of another process has just removed the key's folder because it was empty.
            self._make_folders(folder.parent)
            os.rename(directory, folder)

    def upload(self, local: Path, path: str) -> None:
        with translated(f"writing {path}", self.url):
            final = self.root / path
            self._make_folders(final.parent)
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
                    return {
                        item.name: _entry(item.stat()) for item in found if item.is_file() and not item.name.startswith(TEMPORARY)
                    }
            except (FileNotFoundError, NotADirectoryError):
                return {}

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
            for parent, _, names in os.walk(self.root / folder):
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

    def _make_folders(self, folder: Path) -> None:
        """Make a folder and its parents; a new name is only safe once the folder that holds it is flushed."""
        if folder.is_dir():
            return
        self._make_folders(folder.parent)
        try:
            os.mkdir(folder)
        except FileExistsError:
            return
        _flush(folder.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all it holds, also while others remove it or add to it."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    shutil.rmtree(folder)


def flush(directory: Path, files: Sequence[str]) -> None:
    """Wait until files and the folders that name them are on the disk."""
    paths = [directory / name for name in files]
    if len(paths) > 2:
        # Started together, the writes share the disk's journal: 100 pictures take 8 ms instead of 18.
        for path in paths:
            _start_writing(path)
    for path in [*paths, *sorted({path.parent for path in paths} | {directory})]:
        _flush(path)


def _flush(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux only; elsewhere fsync does all the work
_SYNC_FILE_RANGE_WRITE = 2


def _start_writing(path: Path) -> None:
    if _sync_file_range is None:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)
    finally:
        os.close(descriptor)


def _temporary_name(name: str) -> str:
    return f"{TEMPORARY}{name}-{secrets.token_hex(6)}"


def _entry(status: os.stat_result) -> Entry:
    return Entry(status.st_size, status.st_mtime, f"{status.st_mtime_ns}-{status.st_ino}")
