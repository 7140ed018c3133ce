"""Clips are brought to the end of their stages without a job: cached, one bad clip stopping no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flows.clip_stages import ClipRun, Manifests
from flows.planning import Clip, Planner
from flows.workers import WorkerPool
from schemas.problems import HeadswapError
from tests.flows import fakes
from tests.flows.conftest import Night


def run(night: Night, paths: list[Path], *, retry_failed: bool = False) -> list[Manifests | HeadswapError]:
    fakes.executions.clear()
    planner: Planner = night.planner([])
    told: list[tuple[int, int]] = []
    with WorkerPool(0) as pool:
        clips = [Clip(str(path), "largest") for path in paths]
        found = ClipRun(planner, pool, note=lambda text: None, retry_failed=retry_failed).run(
            clips, lambda done, of: told.append((done, of))
        )
    assert told == [(done, len(paths)) for done in range(1, len(paths) + 1)]
    return found


def test_every_stage_of_a_clip_runs_once_and_is_then_cached(night: Night, clips: Callable[[str, int], Path]) -> None:
    path = clips("a", 25)
    (found,) = run(night, [path])
    assert isinstance(found, dict)
    assert {stage: len(some) for stage, some in found.items()} == {"ingest": 1, "landmarks": 3, "track": 1}
    assert sorted(fakes.executions) == ["ingest:a", "landmarks:a", "landmarks:a", "landmarks:a", "track:-"]
    assert run(night, [path]) == [found]
    assert fakes.executions == []


def test_a_bad_clip_stops_no_other_and_is_not_tried_again_until_asked(night: Night, clips: Callable[[str, int], Path]) -> None:
    bad, good = clips("bad", 5), clips("good", 5)
    bad.write_text("no video")
    failed, done = run(night, [bad, good])
    assert isinstance(failed, HeadswapError)
    assert failed.code == "not_media"
    assert isinstance(done, dict)
    failed, _ = run(night, [bad, good])
    assert isinstance(failed, HeadswapError)
    assert fakes.executions == []
    run(night, [bad, good], retry_failed=True)
    assert fakes.executions == ["ingest:bad"]


def test_a_clip_that_is_not_there_is_named(night: Night, tmp_path: Path) -> None:
    (found,) = run(night, [tmp_path / "gone.mp4"])
    assert isinstance(found, HeadswapError)
    assert "gone.mp4" in found.message


def test_what_may_pass_is_tried_again(night: Night, clips: Callable[[str, int], Path]) -> None:
    path = clips("a", 5)
    fakes.trouble["track"] = [fakes.passing()]
    (found,) = run(night, [path])
    assert isinstance(found, dict)
    assert fakes.executions.count("track:-") == 2


def test_a_clip_that_crashes_its_decoder_is_held_to_be_bad_until_asked_for(
    night: Night, clips: Callable[[str, int], Path]
) -> None:
    path = clips("a", 5)
    fakes.trouble["track"] = [fakes.passing("worker_died") for _ in range(9)]
    (failed,) = run(night, [path])
    assert isinstance(failed, HeadswapError)
    assert fakes.executions.count("track:-") == 3
    (failed,) = run(night, [path])
    assert isinstance(failed, HeadswapError)
    assert failed.code == "worker_died"
    assert fakes.executions == []
    run(night, [path], retry_failed=True)
    assert fakes.executions == ["track:-"] * 3, "asked for, it has all its tries again"


def test_trouble_of_the_store_the_night_before_is_not_held_against_a_clip(
    night: Night, clips: Callable[[str, int], Path]
) -> None:
    path = clips("a", 5)
    fakes.trouble["track"] = [fakes.passing("store_unreachable") for _ in range(3)]
    assert isinstance(run(night, [path])[0], HeadswapError)
    fakes.trouble["track"] = [fakes.passing("worker_died")]
    assert not isinstance(run(night, [path])[0], HeadswapError), "it died once, and was tried again"


def test_a_clip_that_changed_meanwhile_waits_for_another_plan(night: Night, clips: Callable[[str, int], Path]) -> None:
    path = clips("a", 5)
    fakes.trouble["landmarks"] = [fakes.passing("file_changed")]
    (failed,) = run(night, [path])
    assert isinstance(failed, HeadswapError)
    assert fakes.executions.count("landmarks:a") == 1
    (found,) = run(night, [path])
    assert isinstance(found, dict)
