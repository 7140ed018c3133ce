"""The few operations that the store needs from a place: the same on local files, in memory and on object stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One object in a listing."""

    bytes: int
    modified: float  # seconds since 1970, by the store's clock
    tag: str  # changes when the object is replaced


class Backend(ABC):
    """Objects under a root, named by relative paths with forward slashes. Picklable; usable again after a fork.

    All methods raise ``StoreError`` (``store_full``, ``store_denied``, ``store_unreachable``) for what the place refuses.
    """

    url: str
    """The root's address as it may be shown."""
    address: str
    """The root's address as it was given, credentials in it included."""
    folders: bool
    """Whether picture sequences are stored as folders of files, which people can open, rather than as one tar."""

    def check_address(self) -> None:  # noqa: B027 - most have nothing that could be wrong
        """``StoreError`` for an address that nothing can be at, as far as can be told without asking for anything there."""

    @abstractmethod
    def prepare(self, *, make: bool = True) -> None:
        """Make the root where that is wanted and possible, and find out whether it can be used at all."""

    @abstractmethod
    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of an object, or None where there is none."""

    @abstractmethod
    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Several small objects at once; those that do not exist are left out."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Publish an object unless there is one already: of several callers exactly one gets True. Durable on return."""

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Write an object whole or not at all, whatever was there."""

    @abstractmethod
    def adopt(self, directory: Path, files: Sequence[str], target: str) -> None:
        """Move ``files`` of a local directory under ``target``, which does not exist yet. Durable on return."""

    @abstractmethod
    def upload(self, local: Path, path: str) -> None:
        """Copy a local file into the store, replacing what was there."""

    @abstractmethod
    def download(self, path: str, local: Path) -> None:
        """Copy an object to a local file. Raises FileNotFoundError where there is none."""

    @abstractmethod
    def names(self, folder: str) -> dict[str, Entry]:
        """Objects directly in a folder, by name: one listing."""

    @abstractmethod
    def subfolders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, in order: one listing."""

    @abstractmethod
    def walk(self, folder: str) -> dict[str, Entry]:
        """All objects under a folder, by path relative to the root."""

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; those already gone do not matter."""

    @abstractmethod
    def delete_tree(self, folder: str) -> None:
        """Remove everything under a folder; it may be gone already."""

    def local_path(self, path: str) -> Path | None:
        """Where the object lies on this machine's disk, if it does."""
        del path
        return None
