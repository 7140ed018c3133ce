"""Picture sequences as tars: one object per sequence on stores where every object costs a request."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from storage.keys import digest_file
from storage.manifests import FileEntry, Manifest

_BLOCK = tarfile.BLOCKSIZE


def pack(directory: Path, manifest: Manifest) -> Manifest:
    """Put each folder of a scratch directory into one uncompressed tar beside it, and say so in the manifest.

    The tars hold no times, owners or other traces of where they were made, so the same pictures give the same bytes. The
    content digest of the manifest stays what it is. Packed files are removed from the directory.
    """
    sequences: dict[str, list[FileEntry]] = {}
    files: list[FileEntry] = []
    for entry in manifest.files:
        folder, separator, _ = entry.path.partition("/")
        if separator:
            sequences.setdefault(folder, []).append(entry)
        else:
            files.append(entry)
    containers = []
    for folder, entries in sequences.items():
        tar = directory / f"{folder}.tar"
        files.extend(_write_tar(directory, tar, entries))
        containers.append(FileEntry(tar.name, tar.stat().st_size, digest_file(tar)))
    files.sort(key=lambda entry: entry.path)
    return replace(manifest, files=tuple(files), containers=tuple(containers))


def _write_tar(directory: Path, tar: Path, entries: Sequence[FileEntry]) -> list[FileEntry]:
    packed = []
    with tarfile.open(tar, "x", format=tarfile.USTAR_FORMAT) as archive:
        for entry in entries:
            source = directory / entry.path
            header = tarfile.TarInfo(entry.path)
            header.size = entry.bytes
            packed.append(replace(entry, container=tar.name, offset=archive.offset + _BLOCK))
            archive.addfile(header, io.BytesIO(source.read_bytes()))
            source.unlink()
    return packed
