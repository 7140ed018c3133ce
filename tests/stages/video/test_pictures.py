"""Still pictures of every kind become 8-bit RGB, upright."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.problems import MediaError
from stages.video.decode import Limits, open_clip, probe, read_picture, timestamps
from stages.video.pictures import ends_properly
from tests.media import cut_off, moving_picture

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


def animation(path: Path, count: int = 8, transparent: bool = False, **options: Any) -> list[np.ndarray]:
    """Write a picture that moves; returns what it shows, on white where it is transparent."""
    shown = [moving_picture(k, 60, 40) for k in range(count)]
    drawn = []
    for picture in shown:
        rgba = np.dstack([picture, np.full((40, 60), 255, np.uint8)])
        if transparent:
            rgba[30:, :20] = 0
            picture[30:, :20] = 255
        drawn.append(Image.fromarray(rgba if transparent else picture))
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=[80] * (count - 1) + [240], **options)
    return shown


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [("a.gif", {"disposal": 2}), ("a.gif", {}), ("a.png", {}), ("a.png", {"disposal": 2})]
)
def test_a_gif_or_png_that_moves_is_a_video(tmp_path: Path, name: str, options: dict[str, Any], transparent: bool) -> None:
    shown = animation(tmp_path / name, transparent=transparent, **options)
    facts = probe(tmp_path / name)
    assert (facts.kind, facts.frames, facts.width, facts.height, facts.notes) == ("video", 8, 60, 40, ())
    pts, durations, base = timestamps(tmp_path / name)
    assert [float(time * base) for time in pts.tolist()] == pytest.approx([0.08 * k for k in range(8)])
    assert float(int(durations[-1]) * base) == pytest.approx(0.24)
    with open_clip(tmp_path / name) as clip:
        for number in (0, 1, 2, 3, 4, 5, 6, 7, 5, 2, 6, 0):
            distances = [np.abs(clip.read(number).astype(int) - picture).mean() for picture in shown]
            assert np.argmin(distances) == number
            assert distances[number] < 8  # 256 colours, and those of GIF shared by all of a frame


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_a_picture_that_moves_keeps_the_limits_of_videos(tmp_path: Path, suffix: str) -> None:
    animation(tmp_path / f"a{suffix}")
    for limits in (Limits(frames=5), Limits(seconds=0.3), Limits(pixels=1000), Limits(file_bytes=100)):
        with pytest.raises(MediaError) as caught:
            probe(tmp_path / f"a{suffix}", limits)
        assert caught.value.code == "too_large"


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_a_picture_that_moves_and_is_cut_off_says_so(tmp_path: Path, suffix: str) -> None:
    animation(tmp_path / f"a{suffix}")
    facts = probe(cut_off(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", 0.66))
    assert facts.truncated
    assert 3 < facts.frames < 8
    assert facts.notes == (f"The file is cut off: its first {facts.frames} frames are used.",)


@pytest.mark.parametrize("behind", [b"\n\x1a", b"\0\r\n", b";!,", b"Made with a tool; see its page.\n" * 300])
@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_what_a_tool_adds_behind_a_picture_that_moves_does_not_cut_it_off(tmp_path: Path, suffix: str, behind: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    animation(path)
    with path.open("ab") as file:
        file.write(behind)
    facts = probe(path)
    assert (facts.kind, facts.frames, facts.truncated, facts.notes) == ("video", 8, False, ())


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_a_picture_that_moves_ends_nowhere_but_at_its_end(tmp_path: Path, suffix: str) -> None:
    animation(tmp_path / f"a{suffix}", count=3)
    data = (tmp_path / f"a{suffix}").read_bytes()
    assert ends_properly(tmp_path / f"a{suffix}")
    for length in range(
        len(data) - (8 if suffix == ".png" else 0)
    ):  # the last eight bytes of a PNG say no more than that it ends
        (tmp_path / "part").write_bytes(data[:length])
        assert not ends_properly(tmp_path / "part"), length


def test_a_png_that_moves_and_that_ffmpeg_does_not_decode_is_read_as_its_first_picture(tmp_path: Path) -> None:
    frames = [Image.fromarray(moving_picture(k, 60, 40)).convert("1") for k in range(5)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=80)
    facts = probe(tmp_path / "a.png")
    assert (facts.kind, facts.frames) == ("picture", 1)
    (note,) = facts.notes
    assert "its first one is used" in note
    with open_clip(tmp_path / "a.png") as clip:
        assert np.array_equal(clip.read(0), np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_a_gif_or_png_with_one_frame_is_a_still_picture(tmp_path: Path, name: str) -> None:
    animation(tmp_path / name, count=1)
    assert (probe(tmp_path / name).kind, probe(tmp_path / name).notes) == ("picture", ())


@pytest.mark.parametrize("name", ["a.webp", "a.avif", "a.tif"])
def test_what_is_left_out_of_a_file_that_is_read_as_one_picture_is_noted(tmp_path: Path, name: str) -> None:
    picture, other = (Image.fromarray(moving_picture(k, 60, 40)) for k in (0, 9))
    picture.save(tmp_path / name, save_all=True, append_images=[other])
    facts = probe(tmp_path / name)
    assert (facts.kind, facts.frames) == ("picture", 1)
    (note,) = facts.notes
    assert "its first one is used" in note
    picture.save(tmp_path / f"still.{name}")
    assert probe(tmp_path / f"still.{name}").notes == ()


def test_a_small_copy_inside_a_tiff_is_not_missed(tmp_path: Path) -> None:
    picture = Image.fromarray(PICTURE)
    picture.save(tmp_path / "a.tif", save_all=True, append_images=[picture.resize((15, 10))])
    assert probe(tmp_path / "a.tif").notes == ()


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
