"""Still pictures of every kind become 8-bit RGB, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.problems import MediaError
from stages.video.decode import Limits, open_clip, probe, read_picture
from tests.media import moving_picture

PICTURE = moving_picture(0, 60, 40)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    if mode == "I;16":
        grey = np.asarray(Image.fromarray(PICTURE).convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path)
    elif mode == "LA":
        Image.fromarray(PICTURE).convert("L").convert("LA").save(path)
    else:
        Image.fromarray(PICTURE).convert(mode).save(path)
    rgb, alpha = read_picture(path)
    assert rgb.shape == (40, 60, 3)
    assert rgb.dtype == np.uint8
    assert alpha is None
    expected = (
        PICTURE if mode in ("RGB", "CMYK", "RGBA", "P") else np.asarray(Image.fromarray(PICTURE).convert("L").convert("RGB"))
    )
    tolerance = {"1": 130, "P": 30}.get(mode, 3)
    assert np.abs(rgb.astype(int) - expected).mean() < tolerance


def test_transparency_is_flattened_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([PICTURE, np.full((40, 60), 255, np.uint8)])
    rgba[:, :30, 3] = 0
    rgba[:, 30, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "cutout.png")
    rgb, alpha = read_picture(tmp_path / "cutout.png")
    assert alpha is not None
    assert np.array_equal(alpha, rgba[..., 3])
    assert (rgb[:, :30] == 255).all()
    assert np.array_equal(rgb[:, 31:], PICTURE[:, 31:])
    assert np.abs(rgb[:, 30].astype(int) - (PICTURE[:, 30].astype(int) * 128 + 255 * 127) / 255).max() <= 1


def test_a_transparent_palette_is_flattened_too(tmp_path: Path) -> None:
    picture = Image.fromarray(PICTURE).quantize(16)
    corner = picture.getpixel((0, 0))
    picture.save(tmp_path / "palette.png", transparency=corner)
    rgb, alpha = read_picture(tmp_path / "palette.png")
    assert alpha is not None
    assert tuple(rgb[0, 0]) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PICTURE).save(tmp_path / "photo.png", exif=exif)
    rgb, _ = read_picture(tmp_path / "photo.png")
    upright = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: np.rot90(PICTURE, 2),
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, -1),
        7: np.rot90(PICTURE, 2).transpose(1, 0, 2),
        8: np.rot90(PICTURE, 1),
    }[orientation]
    assert np.array_equal(rgb, upright)


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(moving_picture(k, 60, 40)) for k in (0, 9)]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:], lossless=True)
    rgb, _ = read_picture(tmp_path / "two.webp")
    assert np.abs(rgb.astype(int) - PICTURE).mean() < 1


def test_a_picture_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "still.jpg", quality=98)
    with open_clip(tmp_path / "still.jpg") as clip:
        assert (clip.frames, clip.width, clip.height, clip.decoder) == (1, 60, 40, "pillow")
        assert np.abs(clip.read(0).astype(int) - PICTURE).mean() < 4
    assert probe(tmp_path / "still.jpg").kind == "picture"


def test_content_decides_before_the_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.mp4"
    Image.fromarray(PICTURE).save(path, format="PNG")
    assert probe(path).kind == "picture"


def test_damaged_and_oversized_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(PICTURE).save(path)
    with pytest.raises(MediaError) as caught:
        read_picture(path, Limits(pixels=100))
    assert caught.value.code == "too_large"
    half = tmp_path / "half.png"
    half.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MediaError, match=r"half\.png") as caught:
        read_picture(half)
    assert caught.value.code == "not_media"
