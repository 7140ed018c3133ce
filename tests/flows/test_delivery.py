"""Promises of delivery: a video and its provenance belong together whatever ends a run, under the name that was asked for."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

import cli
from flows.catalogue import run_jobs
from flows.delivery import LEFT_OVER, deliver, require_places
from flows.planning import Planner
from flows.summary import plan_document
from schemas.catalogue import read_catalogue
from schemas.problems import StoreError, UsageError
from stages.contract import Work
from stages.networks.registry import ModelRegistry
from stages.video import provenance
from storage.store import ArtifactStore
from tests.flows import fakes
from tests.flows.conftest import Night, job

Clips = Callable[[str, int], Path]


def record_of(video: Path) -> dict[str, Any]:
    return json.loads(video.with_name(f"{video.name}.provenance.json").read_text())


def partials(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.part"))


# ---- a video and its record


@pytest.mark.parametrize("left", ["", '{"video": "a.m', "[]", '"\udcff"'])
def test_a_record_that_cannot_be_read_is_written_again(night: Night, clips: Clips, left: str) -> None:
    jobs = [job("a", clips("source", 1), clips("target", 12))]
    night.run(jobs)
    video = night.out / "a.mp4"
    whole = record_of(video)
    video.with_name("a.mp4.provenance.json").write_bytes(left.encode("utf-8", "surrogateescape"))
    assert night.run(jobs).outcomes["a"].status == "cached"
    assert record_of(video) == whole
    assert fakes.executions == []


def test_a_place_that_fails_half_way_never_holds_a_video_under_the_rights_of_another(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, first, second = clips("source", 1), clips("target", 12), clips("other", 13)
    earlier = [job("a", source, first, rights="release 1")]
    later = [job("a", source, second, rights="release 2")]

    def full(self: LocalFileSystem, *arguments: Any, **options: Any) -> None:
        # The last argument that names a partial file is where half of it is left.
        written = [text for text in arguments if isinstance(text, str) and text.endswith(".part")]
        Path(written[-1]).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left on device")

    for step in ("put_file", "mv", "pipe_file"):
        night.run(earlier)
        with monkeypatch.context() as patched:
            patched.setattr(LocalFileSystem, step, full)
            failure = night.run(later).outcomes["a"].failure
        assert failure is not None
        assert failure.code == "output_failed"
        assert partials(night.out) == []
        video, beside = night.out / "a.mp4", night.out / "a.mp4.provenance.json"
        whose = video.stat().st_size  # a byte a frame
        assert whose in (12, 13), "whole, whichever it is"
        assert not beside.exists() or record_of(video)["rights"] == {12: "release 1", 13: "release 2"}[whose]
        assert night.run(later).outcomes["a"].status in ("done", "cached")
        assert (video.stat().st_size, record_of(video)["rights"]) == (13, "release 2")


def test_a_run_killed_between_video_and_record_leaves_none(night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = clips("source", 1), clips("target", 12)
    night.run([job("a", source, target, rights="release 1")])
    later = [job("a", source, clips("other", 13), rights="release 2")]
    seen: list[bool] = []
    move = LocalFileSystem.mv

    def watched(self: LocalFileSystem, path1: str, path2: str, **options: Any) -> None:
        seen.append((night.out / "a.mp4.provenance.json").exists())
        move(self, path1, path2, **options)

    monkeypatch.setattr(LocalFileSystem, "mv", watched)
    night.run(later)
    assert seen == [False, False], "the old record is gone before the new video is there, the new one comes whole"
    assert record_of(night.out / "a.mp4")["rights"] == "release 2"


# ---- what is being written


def test_two_deliveries_of_one_name_write_to_different_files(night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job("a", clips("source", 1), clips("target", 12))]
    written: list[str] = []
    put = LocalFileSystem.put_file

    def watched(self: LocalFileSystem, path1: str, path2: str, **options: Any) -> None:
        written.append(path2)
        put(self, path1, path2, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", watched)
    night.run(jobs)
    (night.out / "a.mp4").unlink()
    night.run(jobs)
    assert len(set(written)) == len(written) == 2
    assert partials(night.out) == []


def test_what_killed_runs_were_writing_goes_after_a_day(night: Night, clips: Clips) -> None:
    night.out.mkdir()
    old, young, foreign = (
        night.out / name for name in (f".headswap-{'a' * 32}.part", f".headswap-{'b' * 32}.part", ".film.mp4.part")
    )
    for path in (old, young, foreign):
        path.write_bytes(b"half")
    before = time.time() - LEFT_OVER.total_seconds() - 60
    for path in (old, foreign):
        os.utime(path, (before, before))
    night.run([job("a", clips("source", 1), clips("target", 12))])
    assert partials(night.out) == sorted((young.name, foreign.name))


def test_jobs_with_equal_videos_are_signed_each_for_itself(night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)

    def sign(video: Path, output: Path, *, facts: dict[str, Any], **options: Any) -> None:
        both.wait()
        output.write_text(facts["video"])
        both.wait()

    monkeypatch.setattr(provenance, "sign", sign)
    source, target = clips("source", 1), clips("target", 12)
    signing = {"provenance.certificate": "chain.pem", "provenance.key": "key.pem"}
    night.run([job("a", source, target), job("b", source, target)], **signing)
    assert [(night.out / f"{name}.mp4").read_text() for name in "ab"] == ["a.mp4", "b.mp4"]
    assert list(night.store.scratch.rglob("signed-*")) == []


def test_a_copy_that_could_not_be_signed_is_not_left_behind(night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    def sign(video: Path, output: Path, **options: Any) -> None:
        output.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(provenance, "sign", sign)
    signing = {"provenance.certificate": "chain.pem", "provenance.key": "key.pem"}
    batch = night.run([job("a", clips("source", 1), clips("target", 12))], **signing)
    assert batch.outcomes["a"].failure is not None
    assert batch.outcomes["a"].failure.code == "output_failed"
    assert not (night.out / "a.mp4").exists(), "never an unsigned file where a signed one was asked for"
    assert list(night.store.scratch.rglob("signed-*")) == []


# ---- names and notes


def assembling(fallback: str | None = None, notes: tuple[str, ...] = ()) -> Callable[[fakes.Assemble, Work], None]:
    """A stand-in for ``fakes.Assemble.run`` that heeds the container, or takes ``fallback``, and has notes."""

    def run(stage: fakes.Assemble, work: Work) -> None:
        fakes.note(stage, work, "job")
        assert isinstance(work.parameters, fakes.AssembleParameters)
        work.output.file(f"video.{fallback or work.parameters.container}").write_bytes(b"video")
        work.output.facts.update(provenance=dict(work.options), notes=list(notes))

    return run


def test_the_suffix_that_was_written_is_the_container_and_no_output_means_the_configured_one(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.Assemble, "run", assembling())
    source, target = clips("source", 1), clips("target", 12)
    outputs = {"a": "x.mov", "b": "sub/y.MKV", "c": "z.mp4", "d": ""}
    jobs = [job(name, source, target, output=output) for name, output in outputs.items()]
    batch = night.run(jobs, **{"stages.assemble.container": "mkv"})
    expected = {"a": "x.mov", "b": "sub/y.MKV", "c": "z.mp4", "d": "d.mkv"}
    assert {name: outcome.output for name, outcome in batch.outcomes.items()} == {
        name: str(night.out / output) for name, output in expected.items()
    }
    assert all((night.out / output).exists() for output in expected.values())
    assert [note for outcome in batch.outcomes.values() for note in outcome.notes] == []


def test_a_result_that_its_container_cannot_hold_has_the_suffix_it_is_and_the_reason_as_a_note(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "mp4 cannot hold this sound (vorbis): written as mkv."
    monkeypatch.setattr(fakes.Assemble, "run", assembling("mkv", (reason,)))
    jobs = [job("a", clips("source", 1), clips("target", 12), output="x.v2.mp4")]
    for status in ("done", "cached"):
        outcome = night.run(jobs).outcomes["a"]
        assert (outcome.status, outcome.output, outcome.notes) == (status, str(night.out / "x.v2.mkv"), [reason])
    assert record_of(night.out / "x.v2.mkv")["video"] == "x.v2.mkv"


def test_what_was_left_out_of_a_video_is_told_and_nothing_twice(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, left_out = "The file is cut off: its first 12 frames are used.", "Streams of the target are left out: subtitle."
    ingest = fakes.Ingest.run

    def cut_off(stage: fakes.Ingest, work: Work) -> None:
        ingest(stage, work)
        work.output.facts["stream"] = {"notes": [cut] if work.media["clip"].name == "target" else []}

    monkeypatch.setattr(fakes.Ingest, "run", cut_off)
    monkeypatch.setattr(fakes.Assemble, "run", assembling(notes=(cut, left_out)))
    jobs = [job("a", clips("source", 1), clips("target", 12))]
    for _ in range(2):
        assert night.run(jobs).outcomes["a"].notes == [f"target: {cut}", left_out]


def test_what_is_to_be_known_of_the_pipeline_is_noted_with_every_result(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Planner, "pipeline_notes", lambda self, plan: ["The pipeline mine: never trained."])
    jobs = [job("a", clips("source", 1), clips("target", 12))]
    for status in ("done", "cached"):
        outcome = night.run(jobs).outcomes["a"]
        assert (outcome.status, outcome.notes) == (status, ["The pipeline mine: never trained."])


def test_footage_is_not_replaced_by_a_result(night: Night, clips: Clips, tmp_path: Path) -> None:
    source, target = clips("source", 1), clips("clip.mp4", 12)
    (tmp_path / "link").symlink_to(target.parent)
    before = target.read_bytes()
    jobs = [job("clip", source, target), job("other", source, clips("second.mp4", 12))]
    for out in (target.parent, tmp_path / "link", Path(os.path.relpath(target.parent))):
        with pytest.raises(UsageError, match=r"clip\.mp4 would replace the target of clip \(the result of clip\)"):
            require_places(night.planner(jobs), str(out))
    require_places(night.planner(jobs), str(tmp_path / "elsewhere"))
    with pytest.raises(UsageError, match="would replace the target of other"):
        require_places(night.planner([job("a", source, target, output="second.mp4"), jobs[1]]), str(target.parent))
    # Also where only the finished video says which container it is in.
    night.out = target.parent
    outcome = night.run([job("clip", source, target)]).outcomes["clip"]
    assert outcome.failure is not None
    assert "would replace the target of clip" in outcome.failure.message
    assert target.read_bytes() == before
    assert not outcome.failure.retryable


def test_neither_a_run_nor_a_plan_begins_where_footage_would_be_replaced(night: Night, clips: Clips) -> None:
    jobs = [job("clip", clips("source", 1), clips("clip.mp4", 12))]
    settings, out = night.settings(engine="direct"), str(night.folder / "media")
    with pytest.raises(UsageError, match="would replace the target of clip"):
        run_jobs(jobs, night.store, settings, name="night", output_url=out)
    with pytest.raises(UsageError, match="would replace the target of clip"):
        plan_document(jobs, night.store, night.settings(out=out), ModelRegistry(night.folder / "models"))
    assert fakes.executions == []


@pytest.mark.parametrize(
    ("target", "out"),
    [
        ("simplecache::memory://foot/a.mp4", "memory://foot"),
        ("memory:///foot/a.mp4", "memory://foot"),
        ("s3a://foot/a.mp4", "s3://foot"),
        ("s3://foot/a.mp4", "s3a://foot/"),
        ("sftp://ada:SECRET@NAS/foot/a.mp4", "sftp://nas/foot"),
        ("simplecache::file:///foot/a.mp4", "/foot"),
        ("file:///foot/a.mp4", "/foot"),
    ],
)
def test_footage_is_known_however_its_address_is_written(night: Night, clips: Clips, target: str, out: str) -> None:
    made = job("a", clips("source", 1), clips("target", 3)).model_copy(update={"target": target})
    planner = Planner([made], night.store, night.settings(), ModelRegistry(night.folder / "models"))
    with pytest.raises(UsageError, match="would replace the target of a"):
        require_places(planner, out)


def test_a_job_may_go_on_from_another_one_s_result(night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes.Assemble, "options", (*fakes.Assemble.options, "source_name", "target_name"))
    first = job("a", clips("source", 1), clips("target", 12))
    night.run([first])
    result = night.out / "a.mp4"
    before = result.stat().st_mtime_ns
    result_as_clip = clips("as-clip", 12)  # what fakes can read
    second = job("b", clips("source", 1), result_as_clip).model_copy(update={"target": str(result)})
    require_places(night.planner([first, second]), str(night.out))
    assert night.run([first, second]).outcomes["a"].status == "cached"
    assert result.stat().st_mtime_ns == before
    # Also where the first is made anew, of the same pair.
    target = night.folder / "media" / "target"
    target.write_text(target.read_text().replace("12", "13"))
    assert night.run([first, second]).outcomes["a"].status == "done"
    assert result.stat().st_mtime_ns != before
    result.with_name("a.mp4.provenance.json").unlink()
    with pytest.raises(UsageError, match="would replace the target of b"):
        require_places(night.planner([first, second]), str(night.out))


def test_folders_that_may_not_be_written_are_told_before_a_run_unless_all_lies_there(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job("a", clips("source", 1), clips("target", 12), output="open/a.mp4")]
    (night.out / "open").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != night.out)  # also for root
    require_places(night.planner(jobs), str(night.out))
    closed = [job("a", clips("source", 1), clips("target", 12), output="a.mp4")]
    with pytest.raises(StoreError, match="may not be written") as caught:
        require_places(night.planner(closed), str(night.out))
    assert not caught.value.retryable
    night.run(closed)
    require_places(night.planner(closed), str(night.out))


def test_a_result_that_takes_the_place_of_another_pair_s_says_so(night: Night, clips: Clips) -> None:
    source, first, second = clips("source", 1), clips("first", 12), clips("second", 12)
    assert night.run([job("a", source, first)]).outcomes["a"].notes == []
    assert night.run([job("a", source, first)]).outcomes["a"].notes == []
    (note,) = night.run([job("a", source, second)]).outcomes["a"].notes
    assert note == "a.mp4 took the place of another result."
    assert night.run([job("a", source, second)]).outcomes["a"].notes == []


# ---- places


class KeyedFileSystem(MemoryFileSystem):
    """Lets in whoever has the key."""

    protocol = "keyed"
    store: dict[str, Any] = {}  # noqa: RUF012  of the class, as the parent's is
    pseudo_dirs = [""]  # noqa: RUF012

    def __init__(self, key: str = "", **options: Any) -> None:
        super().__init__(**options)
        if key != "secret":
            raise PermissionError(errno.EACCES, "no key")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("keyed://", "memory://"))


def test_results_beside_the_store_are_written_with_the_options_of_the_store(night: Night, clips: Clips) -> None:
    fsspec.register_implementation("keyed", KeyedFileSystem, clobber=True)
    jobs = [job("a", clips("source", 1), clips("target", 12), output="take [1].mp4")]
    night.run(jobs)
    options: dict[str, Any] = {"store": "keyed://bucket", "storage_options": {"key": "secret"}}
    planner = night.planner(jobs, **options)
    outcome = deliver(planner, planner.jobs["a"], "keyed://bucket/results")
    assert outcome.output == "keyed://bucket/results/take [1].mp4"
    found = fsspec.filesystem("keyed", key="secret").find("/")
    assert [path.rsplit("/", 1)[-1] for path in found] == ["take [1].mp4", "take [1].mp4.provenance.json"]


def test_a_run_whose_catalogue_media_and_edits_lie_beside_the_store_reads_them_with_the_options_of_the_store(
    night: Night, clips: Clips
) -> None:
    fsspec.register_implementation("keyed", KeyedFileSystem, clobber=True)
    options = {"key": "secret"}
    system = fsspec.filesystem("keyed", **options)
    media = [clips("source", 1), clips("target", 12)]
    for path in media:
        system.put_file(str(path), f"keyed://bucket/media/{path.name}")
    system.pipe_file("keyed://bucket/media/larger.yaml", b"head_scale: 1.1\n")
    catalogue = f"id,source,target,rights,edits\na,{media[0].name},{media[1].name},synthetic,larger.yaml\n"
    system.pipe_file("keyed://bucket/media/night.csv", catalogue.encode())
    night.store = ArtifactStore.open("keyed://bucket/store", scratch=night.folder, storage_options=options)
    flags: dict[str, Any] = {"storage_options": options}
    url = "keyed://bucket/media/night.csv"
    jobs = list(read_catalogue(url, storage_options=night.settings(**flags).storage_options_of(url)))
    batch = night.run(jobs, **flags)
    assert batch.outcomes["a"].failure is None
    assert batch.planner.jobs["a"].edits == {"head_scale": 1.1}


def test_swap_takes_store_and_engine_from_wherever_settings_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("keyed", KeyedFileSystem, clobber=True)
    fsspec.filesystem("keyed", key="secret").pipe_file("keyed://bucket/larger.yaml", b"head_scale: 1.1\n")
    (tmp_path / "night.yaml").write_text("store: keyed://bucket/store\nstorage_options: {key: secret}\nengine: prefect\n")
    seen: list[Any] = []
    monkeypatch.setattr(cli, "run_and_tell", lambda jobs, store, settings, **more: seen.append((jobs[0], store, settings)) or 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.mp4"):
        (tmp_path / name).touch()
    command = [
        "swap",
        "a.png",
        "b.mp4",
        "-o",
        str(tmp_path / "out.mp4"),
        "--rights",
        "own",
        "--edit",
        "keyed://bucket/larger.yaml",
    ]
    ended = CliRunner().invoke(cli.app, [*command, "--config", str(tmp_path / "night.yaml")])
    assert ended.exit_code == 0, ended.output
    job, store, settings = seen[0]
    assert (store.url, settings.engine, job.edits) == ("keyed://bucket/store", "prefect", "keyed://bucket/larger.yaml")
    monkeypatch.setenv("HEADSWAP_ENGINE", "prefect")
    assert CliRunner().invoke(cli.app, command[:-2]).exit_code == 0
    assert (seen[1][1].url, seen[1][2].engine) == (str(tmp_path / ".cache/headswap/store"), "prefect")
    monkeypatch.delenv("HEADSWAP_ENGINE")
    assert CliRunner().invoke(cli.app, command[:-2]).exit_code == 0
    assert seen[2][2].engine == "direct"
