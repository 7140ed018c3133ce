"""Downloads of registered models: bounded, and checked for completeness."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from schemas.problems import ModelError
from stages.networks.model_entries import ModelEntry

_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 30.0


def download(entry: ModelEntry, path: Path, maximum_bytes: int, progress: Callable[[int, int | None], None] | None) -> None:
    """Fetch ``entry.url`` into a file.

    Raises:
        ModelError: ``model_download``: the network or the server fails, or sends more than ``maximum_bytes``.
    """
    request = urllib.request.Request(entry.url, headers={"User-Agent": "headswap"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer, path.open("wb") as file:
            length = answer.headers.get("Content-Length")
            expected = int(length) if length and length.isdigit() else None
            received = 0
            while block := answer.read(_BLOCK):
                received += len(block)
                if received > maximum_bytes:
                    raise ModelError(
                        "model_download", f"{entry.url} sends more than {maximum_bytes} bytes.", "Is it the right address?"
                    )
                file.write(block)
                if progress is not None:
                    progress(received, expected)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ModelError(
            "model_download",
            f"{entry.name} could not be downloaded from {entry.url}: {reason}.",
            f"Check the network, or fetch the file elsewhere and register it: `headswap models add {entry.name} FILE`.",
            retryable=True,
        ) from error
    if expected is not None and received != expected:
        raise ModelError(
            "model_download",
            f"{entry.url} sent {received} of {expected} bytes before it stopped.",
            "Repeat the command.",
            retryable=True,
        )


def extract(entry: ModelEntry, path: Path, maximum_bytes: int) -> None:
    """Replace a zip archive by its one member that is wanted (in whatever folder of the archive)."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [member for member in archive.infolist() if Path(member.filename).name == entry.member]
            if not found or found[0].file_size > maximum_bytes:
                raise ModelError(
                    "model_download",
                    f"The archive {entry.url} does not hold {entry.member}.",
                    f"Register a file with `headswap models add {entry.name} FILE`.",
                )
            unpacked = path.with_name(path.name + ".member")
            try:
                with archive.open(found[0]) as member, unpacked.open("wb") as file:
                    _copy_bounded(member, file, found[0].file_size)
                os.replace(unpacked, path)
            finally:
                unpacked.unlink(missing_ok=True)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            "model_download", f"What {entry.url} sent is no whole zip archive.", "Repeat the command.", retryable=True
        ) from error


def _copy_bounded(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """Copy at most ``size`` bytes: what an archive says about itself is not to be trusted."""
    while size > 0 and (block := source.read(min(_BLOCK, size))):
        target.write(block)
        size -= len(block)
