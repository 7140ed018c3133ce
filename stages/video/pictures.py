"""Still pictures: every kind that Pillow reads becomes 8-bit RGB in the orientation in which it is meant to be seen."""

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
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"GIF8", b"P5", b"P6")


def is_picture(path: Path) -> bool:
    """Whether the file is to be read as a still picture: by its content, then by its name."""
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] == b"ftypavif":
        return True
    return path.suffix.lower() in _SUFFIXES


def read_picture(path: Path, limits: Limits | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a still picture; of an animation, the first frame.

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
    weight = alpha[..., None].astype(np.uint32)
    flattened = (rgba[..., :3] * weight + 255 * (255 - weight) + 127) // 255
    return flattened.astype(np.uint8), alpha
