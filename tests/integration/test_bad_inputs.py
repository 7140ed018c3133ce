"""A night full of bad and odd inputs: each ends as it should, with a sentence that helps, and none stops the others."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from stages.video.decode import timestamps
from stages.video.pictures import read_picture
from tests.integration.conftest import Headswap, write_catalogue
from tests.media import cut_off, moving_pictures, write_video
from tests.stages.video.retiming import retimed

FRAMES = 10


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, examples: Path, speech_frames: list[np.ndarray]) -> dict[str, Path]:
    """Every odd file the night meets, by what is odd about it."""
    folder = tmp_path_factory.mktemp("odd")
    faces = [np.ascontiguousarray(frame) for frame in speech_frames[:FRAMES]]
    small = [cv2.resize(frame, (256, 256), interpolation=cv2.INTER_AREA) for frame in faces]
    found: dict[str, Path] = {"missing": folder / "missing.mp4"}

    def video(name: str, frames: list[np.ndarray], suffix: str = ".mp4", **options: Any) -> None:
        found[name] = folder / f"{name}{suffix}"
        write_video(found[name], frames, **options)

    found["empty"] = folder / "empty.mp4"
    found["empty"].touch()
    found["text"] = folder / "text.mp4"
    found["text"].write_text("This is no video.\n" * 40)
    video("whole", faces * 4, options={"g": "8"})
    found["cut_off"] = cut_off(found["whole"], folder / "cut_off.mp4")
    video("streamable", faces * 4, options={"g": "8"}, container_options={"movflags": "faststart"})
    video("matroska", faces * 2, suffix=".mkv", options={"g": "8"})
    found["cut_matroska"] = cut_off(found["matroska"], folder / "cut_matroska.mkv", 0.6)
    found["moving_picture"] = folder / "moving_picture.gif"
    first, *others = (Image.fromarray(frame) for frame in small)
    first.save(found["moving_picture"], save_all=True, append_images=others, duration=40)
    found["cut_in_the_middle"] = cut_off(found["streamable"], folder / "cut_in_the_middle.mp4", 0.6)
    video("in_order", faces * 4, options={"bf": "0"})
    found["one_time"] = retimed(found["in_order"], folder / "one_time.mp4", [0] * (4 * FRAMES))
    video("no_face", moving_pictures(FRAMES, 320, 240))
    nobody = [np.full_like(faces[0], 90)] * FRAMES
    video("face_in_some", [*nobody[:6], *faces, *nobody[:6]])
    video("two_people", [np.hstack([frame, frame[:, ::-1]]) for frame in small])
    close = [
        cv2.resize(np.ascontiguousarray(frame[20:400, 60:440]), (512, 512))[:, ::-1] for frame in speech_frames[30 : 30 + FRAMES]
    ]
    video("a_cut", [*faces, *close])
    video("one_frame", faces[:1])
    video("odd_size", [cv2.resize(frame[60:421, 16:495], (479, 361)) for frame in faces], pixel_format="yuv444p")
    video("rotated", [np.ascontiguousarray(np.rot90(frame)) for frame in faces], rotation=90)
    video("ten_bit_hevc", faces, codec="libx265", pixel_format="yuv420p10le")
    video("silent", faces)
    video("good", faces, audio=True)
    video("variable_rate", faces, pts=[0, 1, 3, 4, 8, 9, 10, 14, 15, 21], time_base=Fraction(1, 30))

    portrait, _ = read_picture(examples / "portrait_ada.png")
    other, _ = read_picture(examples / "portrait_ben.png")
    picture = Image.fromarray(portrait)
    for name, made, suffix in (
        ("source_without_face", Image.fromarray(moving_pictures(1, 320, 240)[0]), ".png"),
        (
            "source_with_several",
            Image.fromarray(np.hstack([cv2.resize(portrait, (512, 512)), cv2.resize(other, (400, 512))])),
            ".png",
        ),
        ("source_upside_down", picture.rotate(180), ".jpg"),
        ("palette", picture.convert("P"), ".png"),
        ("cmyk", picture.convert("CMYK"), ".jpg"),
        ("sixteen_bit", Image.fromarray(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257), ".png"),
    ):
        found[name] = folder / f"{name}{suffix}"
        made.save(found[name])
    return found


FAILS = {
    "missing": "file_missing",
    "empty": "file_empty",
    "text": "not_media",
    "cut_off": "truncated",
    "one_time": "bad_timestamps",
    "no_face": "no_face",
    "source_without_face": "no_face",
    "source_upside_down": "portrait_turned",
}
TARGETS = (
    "cut_in_the_middle",
    "cut_matroska",
    "moving_picture",
    "face_in_some",
    "two_people",
    "a_cut",
    "one_frame",
    "odd_size",
    "rotated",
    "ten_bit_hevc",
    "silent",
    "good",
    "variable_rate",
)
SOURCES = ("source_with_several", "palette", "cmyk", "sixteen_bit")


@pytest.fixture(scope="module")
def night(
    media: dict[str, Path], headswap: Headswap, examples: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("night")
    source = examples / "portrait_ben.png"
    rows: list[dict[str, object]] = [
        {"id": name, "source": source, "target": media[name]}
        for name in (*FAILS, *TARGETS)
        if name in media and not name.startswith("source")
    ]
    rows += [
        {"id": name, "source": media[name], "target": media["one_frame"]}
        for name in ("source_without_face", "source_upside_down", *SOURCES)
    ]
    catalogue = write_catalogue(folder / "odd.csv", [{**row, "rights": "synthetic"} for row in rows])
    ended = headswap("run", catalogue, "--store", folder / "store", "--out", folder / "out", "--engine", "direct", "--json")
    assert ended.status == 1, ended.err
    return {job["id"]: job for job in ended.document["jobs"]}, folder


@pytest.mark.parametrize("name", FAILS)
def test_a_bad_input_fails_with_its_file_and_a_remedy(
    name: str, night: tuple[dict[str, dict[str, Any]], Path], media: dict[str, Path]
) -> None:
    job = night[0][name]
    assert job["status"] == "failed"
    assert job["failure"]["code"] == FAILS[name]
    assert media[name].name in job["failure"]["message"]
    assert job["failure"]["remedy"]


@pytest.mark.parametrize("name", [*TARGETS, *SOURCES])
def test_an_odd_input_comes_out_with_its_own_frames_and_times(
    name: str, night: tuple[dict[str, dict[str, Any]], Path], media: dict[str, Path]
) -> None:
    job = night[0][name]
    assert job["status"] == "done", job["failure"]
    target = media[name if name in TARGETS else "one_frame"]
    pts, _, base = timestamps(target)
    result_pts, _, result_base = timestamps(Path(job["output"]))
    assert [value * result_base for value in result_pts.tolist()] == [value * base for value in pts.tolist()]
    with av.open(str(target)) as original, av.open(job["output"]) as result:
        assert (result.streams.video[0].width, result.streams.video[0].height) == (
            original.streams.video[0].width,
            original.streams.video[0].height,
        )
        assert len(result.streams.audio) == len(original.streams.audio)


def test_frames_without_a_face_are_kept_and_counted(night: tuple[dict[str, dict[str, Any]], Path]) -> None:
    job = night[0]["face_in_some"]
    assert job["frames"] == 12 + FRAMES
    assert 0 < job["generated"] <= FRAMES


def test_both_sides_of_a_cut_are_swapped(night: tuple[dict[str, dict[str, Any]], Path]) -> None:
    job = night[0]["a_cut"]
    assert job["generated"] == job["frames"] == 2 * FRAMES


@pytest.mark.parametrize(("name", "frames"), [("cut_in_the_middle", 4 * FRAMES), ("cut_matroska", 2 * FRAMES)])
def test_what_was_cut_off_is_said(name: str, frames: int, night: tuple[dict[str, dict[str, Any]], Path]) -> None:
    job = night[0][name]
    assert 0 < job["frames"] < frames
    assert any("cut off" in note for note in job["notes"])


def test_a_picture_that_moves_is_swapped_in_all_its_frames(night: tuple[dict[str, dict[str, Any]], Path]) -> None:
    job = night[0]["moving_picture"]
    assert job["generated"] == job["frames"] == FRAMES


def test_that_a_source_shows_several_people_is_said(night: tuple[dict[str, dict[str, Any]], Path]) -> None:
    said = {name: any("shows 2 people" in note for note in job["notes"]) for name, job in night[0].items() if "notes" in job}
    assert [name for name, told in said.items() if told] == ["source_with_several"]


def test_the_second_night_tries_no_bad_input_again_and_does_nothing_twice(
    night: tuple[dict[str, dict[str, Any]], Path], headswap: Headswap
) -> None:
    folder = night[1]
    arguments = ("--store", folder / "store", "--out", folder / "out", "--engine", "direct", "--json")
    again = headswap("run", folder / "odd.csv", *arguments).document
    assert sum(total["executed"] for total in again["stages"].values()) == 0
    assert again["done"] == 0
    assert again["failed"] == len(FAILS)
    status = headswap("status", "--store", folder / "store", "--json")
    assert status.status == 1
    assert {failure["id"] for failure in status.document["failures"]} == set(FAILS)


def test_all_problems_of_a_catalogue_are_told_at_once(headswap: Headswap, tmp_path: Path) -> None:
    catalogue = tmp_path / "bad.csv"
    catalogue.write_text("id,source,target,rights,sauce\na,s.png,t.mp4,synthetic,\na,s.png,t.mp4,synthetic,\nb,s.png,t.mp4,,\n")
    ended = headswap("run", catalogue, "--store", tmp_path / "store")
    assert ended.status == 2
    assert "sauce" in ended.err
    assert "source" in ended.err, "the nearest known column"
    assert "rights" in ended.err
    assert "'a'" in ended.err or " a " in ended.err


def test_an_unreachable_store_is_told_before_any_work(
    headswap: Headswap, catalogue: Callable[..., Path], media: dict[str, Path]
) -> None:
    path = catalogue({"id": "a", "source": media["palette"], "target": media["good"]})
    ended = headswap(
        "run",
        path,
        "--store",
        "s3://nowhere/store",
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="none",
        AWS_SECRET_ACCESS_KEY="none",
    )
    assert ended.status == 1
    assert "s3://nowhere/store" in ended.err
    assert "store_unreachable" in ended.err
