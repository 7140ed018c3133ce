"""What an operator does before, beside and after a night: plan, look, retry, make room, set things, read documents."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from schemas.parameters import EncodeParameters
from stages.video.decode import open_clip
from tests.integration.conftest import Ended, Headswap, write_catalogue
from tests.media import write_video
from tests.nights import executed, inside


@dataclass
class Night:
    """A finished night of two jobs, of which one failed because its target was not there yet."""

    headswap: Headswap
    folder: Path
    first: Ended

    @property
    def catalogue(self) -> Path:
        return self.folder / "night.csv"

    def __call__(self, *arguments: str | Path, **more: str) -> Ended:
        return inside(self.headswap, *arguments, "--store", self.folder / "store", **more)

    def again(self, *arguments: str) -> Ended:
        return self("run", self.catalogue, "--out", self.folder / "out", "--engine", "direct", "--json", *arguments)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, examples: Path, speech_frames: list[np.ndarray], headswap: Headswap) -> Night:
    folder = tmp_path_factory.mktemp("night")
    one = write_video(folder / "one.mp4", speech_frames[:8], audio=True)
    source = examples / "portrait_ada.png"
    write_catalogue(
        folder / "night.csv",
        [
            {"id": "a", "source": source, "target": one, "rights": "synthetic"},
            {"id": "late", "source": source, "target": folder / "late.mp4", "rights": "synthetic"},
        ],
    )
    arguments = ("--store", folder / "store", "--out", folder / "out", "--engine", "direct", "--json")
    return Night(headswap, folder, headswap("run", folder / "night.csv", *arguments))


def test_a_run_with_a_failure_says_so_in_one_document(night: Night) -> None:
    assert night.first.status == 1
    document = night.first.document
    assert (document["done"], document["failed"]) == (1, 1)
    failure = next(job["failure"] for job in document["jobs"] if job["id"] == "late")
    assert failure["code"] == "file_missing"
    assert "late.mp4" in failure["message"]
    assert failure["remedy"]
    assert night.first.err == "", "progress is not shown beside a document"


def test_status_plan_and_report_tell_what_the_run_told(night: Night) -> None:
    status = night("status", "--json")
    assert status.status == 1
    assert status.document["state"] == "failed"
    assert [failure["id"] for failure in status.document["failures"]] == ["late"]
    plan = night("plan", night.catalogue, "--json")
    assert plan.status == 0
    assert plan.document["states"] == {"cached": 1, "failed": 1}
    assert plan.document["seconds"] == 0
    page = Path(night("report", "--json").document["report"])
    assert "late.mp4" in page.read_text()


def test_every_command_that_reports_prints_one_document(night: Night, tmp_path: Path) -> None:
    for arguments, expected in (
        (("status",), 1),
        (("plan", night.catalogue), 0),
        (("report",), 0),
        (("inspect", night.folder / "one.mp4", "--out", tmp_path), 0),
        (("gc",), 0),
        (("fsck",), 0),
        (("doctor",), 0),
    ):
        ended = night(*arguments, "--json")
        assert ended.status == expected, (arguments, ended)
        assert json.loads(ended.out)
    for name in ("list", "verify"):
        assert inside(night.headswap, "models", name, "--json").status == 0


def test_wrong_usage_is_2_with_every_problem_and_a_document_where_one_is_asked_for(night: Night, tmp_path: Path) -> None:
    wrong = inside(
        night.headswap, "swap", "s.png", "t.mp4", "-o", tmp_path / "result.txt", "--subject", "ada", "--edit", "none.yaml"
    )
    assert wrong.status == 2
    for named in ("rights", "result.txt", "s.png", "t.mp4", "ada", "none.yaml"):
        assert named in wrong.err
    assert wrong.out == ""
    wrong = night("run", night.catalogue, "--set", "stages.encode.crff=3", "--set", "worker=2")
    assert wrong.status == 2
    assert "stages.encode.crff" in wrong.err
    assert "stages.encode.crf" in wrong.err
    assert "worker" in wrong.err
    assert night("plan", tmp_path / "none.csv", "--json").status == 2


@pytest.mark.parametrize("command", ["status", "retry", "report", "gc", "fsck", "inspect"])
def test_a_store_that_is_not_there_is_told_and_not_made(night: Night, tmp_path: Path, command: str) -> None:
    arguments = (command, "a") if command == "inspect" else (command,)
    wrong = inside(night.headswap, *arguments, "--json", "--store", tmp_path / "mistyped")
    assert wrong.status == 2
    assert str(tmp_path / "mistyped") in wrong.document["error"]["message"]
    assert not (tmp_path / "mistyped").exists()


def test_a_stage_that_there_is_not_cannot_be_checked(night: Night) -> None:
    wrong = night("fsck", "--stage", "rendr", "--stage", "job")
    assert wrong.status == 2
    assert "did you mean 'render'" in wrong.err


def test_a_page_that_is_written_again_tells_how_long_the_run_took(night: Night, tmp_path: Path) -> None:
    assert night("report", "--out", tmp_path).status == 0
    (page,) = tmp_path.rglob("index.html")
    (told,) = re.findall(r"<b>([^<]*)</b> run time", page.read_text())
    assert told != "0.0 s"


def test_settings_come_from_flags_over_variables_over_a_file(night: Night, tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text(f"store: {night.folder / 'store'}\nstages:\n  encode:\n    crf: 30\n")

    def to_run(*arguments: str, **variables: str) -> set[str]:
        plan = inside(night.headswap, "plan", night.catalogue, "--json", *arguments, **variables)
        assert plan.status == 0, plan.err
        return {row["stage"] for row in plan.document["stages"] if row["to_run"]}

    usual = str(EncodeParameters().crf)
    last = {"encode", "assemble", "measure"}
    assert to_run(HEADSWAP_STORE=str(night.folder / "store")) == set()
    assert to_run("--config", str(file)) == last
    assert to_run(HEADSWAP_CONFIG=str(file)) == last
    assert to_run("--config", str(file), HEADSWAP_STAGES__ENCODE__CRF=usual) == set()
    assert to_run("--config", str(file), "--set", "stages.encode.crf=30", HEADSWAP_STAGES__ENCODE__CRF=usual) == last


def test_room_is_made_and_nothing_is_done_again(night: Night, tmp_path: Path) -> None:
    copy = Night(night.headswap, tmp_path, night.first)
    shutil.copytree(night.folder / "store", tmp_path / "store")
    shutil.copy(night.catalogue, tmp_path)
    whole = sum(file.stat().st_size for file in (tmp_path / "store" / "objects").rglob("*.*") if file.is_file())
    young = copy("gc", "--retention", "results", "--json").document
    assert young["freed_bytes"] == 0
    assert young["too_young"]
    for retention in ("resume", "results"):
        freed = copy("gc", "--retention", retention, "--minimum-age-hours", "0", "--json").document
        assert freed["freed_bytes"] > 0
        again = copy.again()
        assert executed(again.document) == 0
        assert again.document["cached"] == 1
    left = sum(file.stat().st_size for file in (tmp_path / "store" / "objects").rglob("*.*") if file.is_file())
    assert left < whole / 5
    assert copy("status", "--json").document["cached"] == 1
    assert copy("fsck", "--json").status == 0


def test_a_late_file_is_tried_by_the_next_run_and_retry_finds_nothing_left(night: Night) -> None:
    """Runs after the others: it changes the night."""
    (night.folder / "late.mp4").write_bytes((night.folder / "one.mp4").read_bytes())
    again = night("retry", "--engine", "direct", "--json")
    assert again.status == 0, again.err
    assert again.document["done"] == 1
    assert {name for name, total in again.document["stages"].items() if total["executed"]} <= {"assemble", "measure"}, (
        "the clip is the same under another name"
    )
    assert night("retry", "--json").document["jobs"] == 0
    assert night("status", "--json").status == 0


def test_a_catalogue_of_a_hundred_jobs_that_are_done_does_nothing(night: Night, tmp_path: Path, examples: Path) -> None:
    row = {"source": examples / "portrait_ada.png", "target": night.folder / "one.mp4", "rights": "synthetic"}
    catalogue = write_catalogue(tmp_path / "hundred.csv", [{"id": f"job-{number}", **row} for number in range(100)])
    again = night("run", catalogue, "--out", tmp_path / "out", "--engine", "direct", "--json")
    assert again.status == 0
    assert (again.document["cached"], executed(again.document)) == (100, 0)
    videos = {path.read_bytes() for path in (tmp_path / "out").glob("*.mp4")}
    assert videos == {(night.folder / "out" / "a.mp4").read_bytes()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, speech_frames: list[np.ndarray], examples: Path) -> tuple[Path, Path]:
    """A clip of two different people side by side, and a picture of the right one, whose head is the smaller one."""
    folder = tmp_path_factory.mktemp("pair")
    with open_clip(examples / "clip_turn.mp4") as clip:
        others = [picture.copy() for _, picture in clip.iterate(range(6))]
    left = [cv2.resize(frame, (320, 320), interpolation=cv2.INTER_AREA) for frame in speech_frames[:6]]
    right = [cv2.resize(frame, (264, 264), interpolation=cv2.INTER_AREA) for frame in others]
    right = [cv2.copyMakeBorder(frame, 56, 0, 28, 28, cv2.BORDER_REPLICATE) for frame in right]
    face = folder / "right.png"
    cv2.imwrite(str(face), cv2.cvtColor(cv2.resize(others[0], (512, 512)), cv2.COLOR_RGB2BGR))
    return write_video(folder / "pair.mp4", [np.hstack(both) for both in zip(left, right, strict=True)]), face


def changed_side(result: Path, target: Path) -> str:
    """Where the picture differs from the target's."""
    with open_clip(result) as clip, open_clip(target) as original:
        (_, after), (_, before) = next(iter(clip.iterate([3]))), next(iter(original.iterate([3])))
    difference = np.abs(after.astype(int) - before).mean(axis=(0, 2))
    middle = len(difference) // 2
    left, right = difference[:middle].mean(), difference[middle:].mean()
    assert max(left, right) > 5 * min(left, right), (left, right)
    return "left" if left > right else "right"


def test_swap_takes_the_person_of_a_picture_and_edits_from_a_file(
    headswap: Headswap, examples: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    clip, face = pair
    edits = tmp_path / "edits.yaml"
    edits.write_text("curves:\n  jawOpen: {offset: 0.5}\n")
    common = ("--rights", "synthetic", "--store", tmp_path / "store", "--json")
    one = headswap("swap", examples / "portrait_ben.png", clip, "-o", tmp_path / "right.mp4", "--subject", face, *common)
    assert one.status == 0, one.err
    assert changed_side(tmp_path / "right.mp4", clip) == "right"
    more = ("--subject", face, "--edit", edits)
    edited = headswap("swap", examples / "portrait_ben.png", clip, "-o", tmp_path / "edited.mp4", *more, *common)
    assert edited.status == 0, edited.err
    done = {name for name, total in edited.document["stages"].items() if total["executed"]}
    assert "retarget" in done
    assert "landmarks" not in done
    assert changed_side(tmp_path / "edited.mp4", clip) == "right"
    assert (tmp_path / "edited.mp4").read_bytes() != (tmp_path / "right.mp4").read_bytes()


@pytest.mark.slow
def test_people_are_chosen_by_number(headswap: Headswap, examples: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    sides = []
    for number in ("0", "1"):
        result = tmp_path / f"{number}.mp4"
        arguments = ("-o", result, "--rights", "synthetic", "--store", tmp_path / "store", "--subject", number)
        ended = headswap("swap", examples / "portrait_ben.png", pair[0], *arguments)
        assert ended.status == 0, ended.err
        sides.append(changed_side(result, pair[0]))
    assert sides == ["left", "right"], "the larger one is number 0"


@pytest.mark.slow
def test_the_demo_a_second_time_is_all_cached(headswap: Headswap, tmp_path: Path) -> None:
    first = headswap("demo", "--out", tmp_path, "--json", timeout=1800)
    assert first.status == 0, first.err
    assert first.document["done"] == 4
    second = headswap("demo", "--out", tmp_path, "--json")
    assert (second.document["cached"], executed(second.document)) == (4, 0)
