"""Display rotation in MP4 and QuickTime files: the matrix in a track's header, which FFmpeg's Python binding cannot write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from schemas.problems import MediaError

_ONE = 0x00010000
_PERSPECTIVE = 0x40000000
_MATRIX_AT = {0: 40, 1: 52}
"""Offset of the matrix in the body of a ``tkhd`` box, by the box's version (ISO/IEC 14496-12, 8.3.2)."""


def display_matrix(rotation: int, width: int, height: int) -> bytes:
    """The nine fixed-point numbers of a track header for a clockwise rotation.

    Args:
        rotation: 0, 90, 180 or 270 degrees, clockwise, to be applied to the coded picture for display.
        width, height: coded size: the translation keeps the turned picture in the positive quadrant.
    """
    a, b, c, d, x, y = {
        0: (1, 0, 0, 1, 0, 0),
        90: (0, 1, -1, 0, height, 0),
        180: (-1, 0, 0, -1, width, height),
        270: (0, -1, 1, 0, 0, width),
    }[rotation]
    return struct.pack(">9i", a * _ONE, b * _ONE, 0, c * _ONE, d * _ONE, 0, x * _ONE, y * _ONE, _PERSPECTIVE)


def set_rotation(path: Path, rotation: int, width: int, height: int) -> None:
    """Write the display rotation of the first video track of an MP4 or QuickTime file, in place.

    Raises:
        MediaError: no_frames where the file has no video track.
    """
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        for header in _video_track_headers(file, 0, end):
            file.seek(header)
            version = file.read(1)[0]
            file.seek(header + _MATRIX_AT[version])
            file.write(display_matrix(rotation, width, height))
            return
    raise MediaError("no_frames", f"{path} has no video track.", "Write the video before its rotation.")


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the body of every box between two offsets."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        body = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            body += 8
        stop = end if size == 0 else start + size
        if stop <= start:
            return
        yield kind, body, stop
        start = stop


def _video_track_headers(file: BinaryIO, start: int, end: int) -> Iterator[int]:
    for kind, body, stop in boxes(file, start, end):
        if kind == b"moov":
            yield from _video_track_headers(file, body, stop)
        elif kind == b"trak":
            header = handler = None
            for inner, inner_body, inner_stop in boxes(file, body, stop):
                if inner == b"tkhd":
                    header = inner_body
                elif inner == b"mdia":
                    for leaf, leaf_body, _ in boxes(file, inner_body, inner_stop):
                        if leaf == b"hdlr":
                            file.seek(leaf_body + 8)
                            handler = file.read(4)
            if header is not None and handler == b"vide":
                yield header
