"""`headswap swap`: the job of one pair, refused with every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.examples import single_job
from schemas.catalogue import Job
from schemas.problems import UsageError


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    for name in ("a.png", "b.mp4"):
        (tmp_path / name).touch()
    return str(tmp_path / "a.png"), str(tmp_path / "b.mp4")


def made(source: str, target: str, output: str = "out.mp4", subject: str | None = None, rights: str = "own") -> Job:
    return single_job(source, target, Path(output), rights=rights, renderer=None, edits=None, subject=subject, seed=0)


def test_a_pair_is_a_job(pair: tuple[str, str]) -> None:
    job = made(*pair, output="films/One Two.MOV", subject="2")
    assert (job.id, job.output, job.subject) == ("One-Two", "One Two.MOV", "2")
    assert made(*pair, subject=pair[0]).subject == pair[0]


@pytest.mark.parametrize("output", [".", "/", "", "out", "out.avi"])
def test_an_output_that_is_no_video_file_is_told(pair: tuple[str, str], output: str) -> None:
    with pytest.raises(UsageError) as refused:
        made(*pair, output=output)
    assert len(refused.value.problems) == 1
    assert "must end in one of .mp4" in refused.value.problems[0]


@pytest.mark.parametrize("subject", ["none.png", "/nowhere/none.png", "x" * 300 + ".png"])
def test_files_that_are_not_there_are_told_with_all_else(tmp_path: Path, subject: str) -> None:
    with pytest.raises(UsageError) as refused:
        made(str(tmp_path / "none.png"), "y" * 300, subject=subject, rights=" ")
    told = refused.value.problems
    assert [problem.split(" ", 2)[1] for problem in told] == ["rights", "source", "target", "subject"]
    assert "does not exist" in told[1]
    assert "name too long" in told[2].lower()


def test_addresses_elsewhere_are_not_looked_for(pair: tuple[str, str]) -> None:
    assert (
        made("https://example.org/a.png", "s3://bucket/b.mp4", subject="https://example.org/c.png").target == "s3://bucket/b.mp4"
    )


@pytest.mark.parametrize("address", ["", ".", "~nobody-here/a.png"])
def test_folders_and_homes_of_nobody_are_no_media(pair: tuple[str, str], address: str) -> None:
    with pytest.raises(UsageError, match="The target"):
        made(pair[0], address)
