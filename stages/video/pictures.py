"""Still pictures: every kind that Pillow reads becomes 8-bit RGB in the orientation in which it is meant to be seen.

A GIF or PNG that moves is no still picture but a video.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from schemas.problems import MediaError
from stages.video.facts import Limits, check_file, check_pixels

# The signatures of what is tried as a picture first; everything else is given to FFmpeg.
_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".tga", ".jp2", ".avif"],
)
_MAY_MOVE = (b"\x89PNG", b"GIF8")
_SIGNATURES = (b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"P5", b"P6")
_OF_AVIF = (b"ftypavif", b"ftypavis")
_MOVING = frozenset({"GIF", "PNG"})
"""Kinds that FFmpeg decodes as videos, by Pillow's names."""
_READ_AS_ONE = frozenset({"WEBP", "AVIF", "TIFF"})
"""Kinds that may hold more than one picture, of which FFmpeg gives the first at best."""
_TAIL_BYTES = 4096


def is_picture(path: Path) -> bool:
    """Whether the file is to be read as a still picture: by its content, then by its name."""
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(_MAY_MOVE):
        return not _holds_more(path, _MOVING)
    if head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in _OF_AVIF:
        return True
    return path.suffix.lower() in _SUFFIXES


def leaves_out(path: Path) -> str | None:
    """What to say of a file that is read as a still picture and holds more than that; None where it does not."""
    if not _holds_more(path, _READ_AS_ONE):
        return None
    return "The file holds more than one picture, and its first one is used: for all of them convert it to a video, such as MP4."


def ends_properly(path: Path) -> bool:
    """Whether a GIF or PNG has the end that it must have; one that was cut off has not."""
    with path.open("rb") as file:
        gif = file.read(4) == b"GIF8"
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read()
    return tail.rstrip(b"\0\r\n").endswith(b";") if gif else b"IEND" in tail


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
