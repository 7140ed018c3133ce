"""Still pictures: every kind that Pillow reads becomes 8-bit RGB in the orientation in which it is meant to be seen.

A GIF or PNG that moves is no still picture but a video, where FFmpeg decodes it.
"""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from schemas.problems import MediaError
from stages.video.facts import Limits, check_file, check_pixels

# The signatures of what is tried as a picture first; everything else is given to FFmpeg.
_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".tga", ".jp2", ".avif"],
)
_PNG, _GIF = _MAY_MOVE = (b"\x89PNG", b"GIF8")
_SIGNATURES = (b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"P5", b"P6")
_OF_AVIF = (b"ftypavif", b"ftypavis")
_MOVING = frozenset({"GIF", "PNG"})
"""Kinds that FFmpeg decodes as videos, by Pillow's names."""
_READ_AS_ONE = frozenset({"WEBP", "AVIF", "TIFF"})
"""Kinds that may hold more than one picture, of which FFmpeg gives the first at best."""
_GREY_OF_ONE_BIT = b"\1\0"
"""Bits of a sample and kind of colour in a PNG's header of which FFmpeg decodes still pictures only."""
_COLOUR_AT = slice(24, 26)


def is_picture(path: Path) -> bool:
    """Whether the file is to be read as a still picture: by its content, then by its name."""
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(_MAY_MOVE):
        still = head.startswith(_PNG) and head[_COLOUR_AT] == _GREY_OF_ONE_BIT
        return still or not _holds_more(path, _MOVING)
    if head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in _OF_AVIF:
        return True
    return path.suffix.lower() in _SUFFIXES


def leaves_out(path: Path) -> str | None:
    """What to say of a file that is read as a still picture and holds more than that; None where it does not."""
    if not _holds_more(path, _READ_AS_ONE | _MOVING):
        return None
    return "The file holds more than one picture, and its first one is used: for all of them convert it to a video, such as MP4."


def ends_properly(path: Path) -> bool:
    """Whether a GIF or PNG has the end that it must have, whatever is behind that; one that was cut off has not."""
    with path.open("rb") as file:
        try:
            return _gif_ends(file) if file.read(4) == _GIF else _png_ends(file)
        except (IndexError, struct.error):  # the file ends before what it says is there
            return False


def _gif_ends(file: BinaryIO) -> bool:
    file.seek(10)
    file.seek(2 + _colours(file.read(1)[0]), os.SEEK_CUR)
    while (kind := file.read(1)) != b";":
        if kind == b"!":
            file.seek(1, os.SEEK_CUR)
        elif kind == b",":
            file.seek(8, os.SEEK_CUR)
            file.seek(_colours(file.read(1)[0]) + 1, os.SEEK_CUR)
        elif kind:  # of no block: decoders pass over it
            continue
        else:
            return False
        while size := file.read(1)[0]:
            file.seek(size, os.SEEK_CUR)
    return True


def _colours(flags: int) -> int:
    """Bytes of the table of colours that follows in a GIF."""
    return 3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0


def _png_ends(file: BinaryIO) -> bool:
    file.seek(8)
    while True:
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return True
        file.seek(size + 4, os.SEEK_CUR)  # and its checksum


def _holds_more(path: Path, kinds: frozenset[str]) -> bool:
    """Whether a file is of one of these kinds of Pillow's and holds more than one picture, all of one size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.format not in kinds or not getattr(picture, "is_animated", False):
                    return False
                size = picture.size
                if picture.format == "TIFF":  # may hold small copies of its first picture
                    picture.seek(1)
                return picture.size == size
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, reading it will say
        return False


def read_picture(path: Path, limits: Limits | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a still picture; of a file with more than one, the first.

    EXIF orientation is applied; palettes, grey, CMYK and 16 bits become 8-bit RGB; transparency is flattened on white.

    Returns:
        rgb uint8 [h, w, 3] and, where the picture has transparency, alpha uint8 [h, w], else None.

    Raises:
        MediaError: file_missing, file_empty, too_large, not_media.
    """
    path = Path(path)
    limits = limits or Limits()
    check_file(path, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                check_pixels(path, picture.width, picture.height, limits)
                picture.seek(0)
                return _as_rgb(ImageOps.exif_transpose(picture))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise MediaError(
            "not_media",
            f"{path} cannot be read as a picture ({error}).",
            "Check that the file is complete, or save it again as PNG or JPEG.",
        ) from error


def _as_rgb(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    if picture.mode.startswith("I"):  # 16 or 32 bits of grey
        values = np.asarray(picture, dtype=np.float64)
        bits = 16 if values.max(initial=0.0) > 255 or picture.mode.startswith("I;16") else 8
        grey = np.clip(np.rint(values * (255.0 / (2**bits - 1))), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), None
    if picture.mode == "F":
        grey = np.clip(np.rint(np.asarray(picture) * (255.0 if np.max(np.asarray(picture)) <= 1.0 else 1.0)), 0, 255).astype(
            np.uint8
        )
        return np.repeat(grey[..., None], 3, axis=2), None
    transparent = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    if not transparent:
        return np.array(picture.convert("RGB")), None
    rgba = np.asarray(picture.convert("RGBA"))
    alpha = rgba[..., 3].copy()
    if alpha.min() == 255:
        return rgba[..., :3].copy(), None
    return on_white(rgba), alpha


def on_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] of uint8 [h, w, 4]: white where the picture is transparent."""
    weight = rgba[..., 3:].astype(np.uint32)
    return ((rgba[..., :3] * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
