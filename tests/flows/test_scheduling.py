"""The promises of a night: shared work is done once, failures stay with their job, what is committed is not done again."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flows import estimates
from flows.catalogue import default_output
from flows.estimates import Costs, StageEstimate, estimate
from flows.events import Events
from flows.planning import Clip, Node
from flows.requirements import require_place, require_signable
from flows.retrying import settings_of_record
from flows.scheduling import Batch, DirectEngine
from flows.workers import WorkerPool
from schemas import catalogue
from schemas.catalogue import Job
from schemas.problems import HeadswapError, StoreError, UsageError
from stages.video import provenance
from storage import sources
from storage.failures import FailureLog
from storage.remote import RemoteBackend
from storage.store import ArtifactStore
from tests.flows import fakes
from tests.flows.conftest import Night, job
from tests.signing import write_chain

Clips = Callable[[str, int], Path]


def four_by_three(clips: Clips) -> list[Job]:
    return [job(f"s{s}-t{t}", clips(f"source{s}", 1), clips(f"target{t}", 25)) for s in range(4) for t in range(3)]


def count() -> Counter[str]:
    return Counter(entry.split(":")[0] for entry in fakes.executions)


def test_four_sources_on_three_targets_do_seven_clip_passes(night: Night, clips: Clips) -> None:
    batch = night.run(four_by_three(clips))
    assert {outcome.status for outcome in batch.outcomes.values()} == {"done"}
    assert count() == {
        "ingest": 7,
        "landmarks": 4 + 3 * 3,  # three chunks of each target
        "track": 7,
        "retarget": 12,
        "render": 12 * 3,
        "assemble": 12,
        "measure": 12,
    }


def test_the_same_command_again_does_nothing(night: Night, clips: Clips) -> None:
    jobs = four_by_three(clips)
    night.run(jobs)
    batch = night.run(jobs)
    assert fakes.executions == []
    assert {outcome.status for outcome in batch.outcomes.values()} == {"cached"}


def test_a_changed_parameter_redoes_only_what_depends_on_it(night: Night, clips: Clips) -> None:
    jobs = four_by_three(clips)
    night.run(jobs)
    night.run(jobs, **{"stages.render.match_neck": False})
    assert count() == {"render": 36}, "the crops came out the same, so nothing after them was done again"
    night.run(jobs, **{"stages.assemble.container": "mkv"})
    assert count()["assemble"] == 12
    assert not count().keys() & {"ingest", "landmarks", "track", "retarget", "render"}


def test_a_changed_edit_leaves_clip_stages_alone(night: Night, clips: Clips) -> None:
    source, target = clips("source", 1), clips("target", 12)
    night.run([job("a", source, target)])
    night.run([job("a", source, target, edits='{"curves": {"jawOpen": {"offset": 0.1}}}')])
    assert count()["retarget"] == 1
    assert not count().keys() & {"ingest", "landmarks", "track"}


def test_two_jobs_that_need_the_very_same_work_share_it(night: Night, clips: Clips) -> None:
    source, target = clips("source", 1), clips("target", 25)
    batch = night.run([job("a", source, target), job("b", source, target)])
    assert {outcome.status for outcome in batch.outcomes.values()} == {"done"}
    assert max(Counter(fakes.executions).values()) <= 3, "each chunk once"
    assert count()["render"] == 3
    assert count()["retarget"] == 1


def test_the_same_clip_under_another_name_is_known(night: Night, clips: Clips, tmp_path: Path) -> None:
    source, target = clips("source", 1), clips("target", 12)
    night.run([job("a", source, target)])
    moved = tmp_path / "moved"
    target.rename(moved)
    night.run([job("a", source, moved)])
    assert fakes.executions == []


def test_two_subjects_of_one_clip_share_what_comes_before_the_choice(night: Night, clips: Clips) -> None:
    source, target = clips("source", 1), clips("target", 12)
    batch = night.run([job("a", source, target, subject="0"), job("b", source, target, subject="1")])
    assert {outcome.status for outcome in batch.outcomes.values()} == {"done"}
    assert fakes.executions.count("ingest:target") == 1
    assert count()["track"] == 3


def test_one_bad_video_never_stops_the_batch(night: Night, clips: Clips, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    source = clips("source", 1)
    jobs = [job("bad", source, text), job("missing", source, tmp_path / "nowhere.mp4"), job("good", source, clips("target", 12))]
    batch = night.run(jobs)
    assert batch.outcomes["good"].status == "done"
    assert (night.out / "good.mp4").exists()
    bad, missing = batch.outcomes["bad"].failure, batch.outcomes["missing"].failure
    assert bad is not None
    assert bad.code == "not_media"
    assert missing is not None
    assert missing.code == "file_missing"
    assert "nowhere.mp4" in missing.message


def test_a_bad_input_is_quarantined_until_asked_for(night: Night, clips: Clips, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    jobs = [job("bad", clips("source", 1), text)]
    night.run(jobs)
    batch = night.run(jobs)
    assert "ingest:text.mp4" not in fakes.executions
    assert batch.outcomes["bad"].failure is not None
    assert batch.outcomes["bad"].failure.code == "not_media"
    night.run(jobs, retry_failed=True)
    assert "ingest:text.mp4" in fakes.executions


def test_a_mended_input_needs_no_retry(night: Night, clips: Clips, tmp_path: Path) -> None:
    target = tmp_path / "target.mp4"
    target.write_text("no video")
    jobs = [job("a", clips("source", 1), target)]
    night.run(jobs)
    target.write_text('{"frames": 12}')
    assert night.run(jobs).outcomes["a"].status == "done"


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(night: Night, clips: Clips) -> None:
    fakes.trouble["retarget"] = [fakes.passing(), fakes.passing()]
    batch = night.run([job("a", clips("source", 1), clips("target", 12))])
    assert batch.outcomes["a"].status == "done"
    assert fakes.trouble["retarget"] == []
    fakes.trouble["retarget"] = [ValueError("a fault"), ValueError("never met")]
    batch = night.run([job("b", clips("source", 1), clips("other", 13))])
    assert batch.outcomes["b"].failure is not None
    assert batch.outcomes["b"].failure.code == "internal_error"
    assert len(fakes.trouble["retarget"]) == 1
    assert "a fault" in batch.outcomes["b"].failure.message


def test_what_keeps_failing_ends_with_its_reason(night: Night, clips: Clips) -> None:
    fakes.trouble["retarget"] = [fakes.passing() for _ in range(9)]
    batch = night.run([job("a", clips("source", 1), clips("target", 12))])
    failure = batch.outcomes["a"].failure
    assert failure is not None
    assert failure.code == "store_unreachable"
    assert failure.retryable, "the next night may find the network again"
    fakes.trouble.clear()
    assert night.run([job("a", clips("source", 1), clips("target", 12))]).outcomes["a"].status == "done"


def test_chunks_that_were_committed_before_a_failure_stay(night: Night, clips: Clips) -> None:
    jobs = [job("a", clips("source", 1), clips("target", 40))]
    fakes.trouble["render"] = [ValueError("a fault")]
    night.run(jobs)
    assert count()["render"] == 4
    night.run(jobs, retry_failed=True)
    assert count()["render"] == 1


def test_a_plan_says_what_would_run_without_running(night: Night, clips: Clips) -> None:
    def estimated(**flags: object) -> dict[str, StageEstimate]:
        planner = night.planner(jobs, **flags)
        return {row.stage: row for row in estimate(planner, Costs(planner, 2))}

    jobs = [job("a", clips("source", 1), clips("target", 25))]
    rows = estimated()
    assert rows["ingest"].to_run == 2
    assert rows["landmarks"].unknown == 2
    night.run(jobs)
    rows = estimated(**{"stages.assemble.container": "mkv"})
    assert rows["assemble"].to_run == 1
    assert rows["assemble"].frames == 25
    assert rows["render"].cached == 1
    assert fakes.executions.count("assemble:job") == 1


def test_few_chunks_keep_few_workers_busy_in_a_plan(night: Night, clips: Clips) -> None:
    def seconds(workers: int, *frames: int) -> dict[str, float]:
        targets = [clips(f"target{number}", count) for number, count in enumerate(frames)]
        planner = night.planner([job(path.stem, clips("source", 1), path) for path in targets])
        costs = Costs(planner, workers, {str(path): count for path, count in zip(targets, frames, strict=True)})
        return {row.stage: row.seconds for row in estimate(planner, costs)}

    assert night.planner([]).settings.stages.ingest.chunk_frames == 10
    assert seconds(16, 10) == seconds(1, 10), "one chunk"
    three = seconds(1, 30)
    assert seconds(16, 30)["render"] == pytest.approx(three["render"] / 3)
    assert seconds(16, 30)["track"] == three["track"], "a stage of whole clips"
    assert seconds(16, 25)["render"] == pytest.approx(three["render"] / 3), "no sooner than the longest chunk"
    assert seconds(2, 30, 30, 30, 30)["track"] == pytest.approx(2 * three["track"])


def test_a_header_that_states_more_frames_than_are_allowed_is_not_believed(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "run_limited", lambda ask, paths, **limits: [10**15 for _ in paths])
    planner = night.planner([job("a", clips("source", 1), clips("target", 12))])
    assert estimates.stated_lengths(planner) == {}
    planner = night.planner([job("a", clips("source", 1), clips("target", 12))], **{"limits.max_frames": 10**15})
    costs = Costs(planner, 2, estimates.stated_lengths(planner))
    assert costs.left(Node("a", "render")) == (10**15, 10)


def test_a_finished_video_is_not_written_again_but_a_lost_one_is(night: Night, clips: Clips) -> None:
    jobs = [job("a", clips("source", 1), clips("target", 12))]
    night.run(jobs)
    video = night.out / "a.mp4"
    before = video.stat().st_mtime_ns
    night.run(jobs)
    assert video.stat().st_mtime_ns == before
    content = video.read_bytes()
    video.unlink()
    night.run(jobs)
    assert video.read_bytes() == content
    assert fakes.executions == []


def test_shipped_data_that_decides_a_result_is_part_of_the_key(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job("a", clips("source", 1), clips("target", 25))]
    night.run(jobs)
    monkeypatch.setattr(fakes.Track, "data", {"face_model": "another"})
    night.run(jobs)
    assert count()["track"] == 2
    assert not count().keys() & {"ingest", "landmarks"}


def test_a_file_replaced_while_it_is_worked_on_is_not_committed(night: Night, clips: Clips) -> None:
    target = clips("target", 25)
    fakes.meddling["landmarks"] = lambda: target.write_text('{"frames": 26}')
    batch = night.run([job("a", clips("source", 1), target)])
    failure = batch.outcomes["a"].failure
    assert failure is not None
    assert failure.code == "file_changed"
    assert night.run([job("a", clips("source", 1), target)]).outcomes["a"].status == "done"


def test_a_shared_clip_that_failed_in_one_shard_is_tried_again_in_the_next(night: Night, clips: Clips) -> None:
    source = clips("source", 1)
    fakes.trouble["ingest"] = [fakes.passing() for _ in range(3)]
    planner = night.planner([job("a", source, clips("target", 12)), job("b", source, clips("other", 13))])
    with WorkerPool(0) as pool:
        batch = Batch(planner, pool, Events(), output_url=str(night.out))
        engine = DirectEngine(batch, threads=1)
        batch.run(engine, ["a"])
        fakes.trouble.clear()
        batch.run(engine, ["b"])
        engine.close()
    assert batch.outcomes["a"].status == "failed"
    assert batch.outcomes["b"].status == "done"


BUSY = StoreError("store_unreachable", "The place is busy.", "Wait.", retryable=True)
UNREADABLE = UsageError(["The file of edits cannot be read."])
UNREADABLE.__cause__ = TimeoutError()


@pytest.mark.parametrize(
    ("place", "name", "trouble"),
    [
        (sources, "describe", BUSY),
        (ArtifactStore, "lookup_many", BUSY),
        (FailureLog, "lookup_many", BUSY),
        (catalogue, "load_edits", UNREADABLE),
    ],
)
def test_what_does_not_answer_at_first_is_asked_again_while_planning(
    night: Night, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str, trouble: HeadswapError
) -> None:
    edits = tmp_path / "edits.yaml"
    edits.write_text("{}")
    jobs = [job("a", clips("source", 1), clips("target", 12), edits=str(edits)), job("b", clips("other", 1), clips("target", 12))]
    answer = getattr(place, name)
    asked: list[str] = []

    def unsure(*question: object, **more: object) -> object:
        asked.append(str(question))
        if asked.count(str(question)) == 1:
            raise trouble
        return answer(*question, **more)

    monkeypatch.setattr(place, name, unsure)
    planner = night.planner(jobs)
    assert len(asked) > 1
    assert [plan.failure for plan in planner.jobs.values()] == [None, None]


def test_a_medium_that_stays_away_fails_its_own_jobs_alone_and_may_pass(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, describe = clips("lost", 12), sources.describe
    asked: list[str] = []

    def unsure(url: str | Path, options: dict[str, object] | None = None) -> tuple[int, str]:
        if url == str(lost):
            asked.append(url)
            raise StoreError("store_unreachable", "No answer.", "Wait.", retryable=True)
        return describe(url, options)

    monkeypatch.setattr(sources, "describe", unsure)
    batch = night.run([job("a", clips("source", 1), lost), job("b", clips("source", 1), clips("target", 12))])
    assert batch.outcomes["b"].status == "done"
    failure = batch.outcomes["a"].failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("store_unreachable", True)
    assert len(asked) == 2 * 3, "with all others and by itself, as often as the settings say"


def test_a_night_looks_for_its_work_without_listing_the_store(
    night: Night, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(self: object, folder: str) -> dict[str, object]:
        raise AssertionError(f"a listing of {folder} grows with the store")

    for name in ("names", "walk"):
        monkeypatch.setattr(type(night.store.backend), name, listed)
    batch = night.run([job("a", clips("source", 1), clips("target", 200))])
    assert batch.outcomes["a"].status == "done"
    assert count()["render"] == 20


def test_a_delivered_job_keeps_of_its_intermediates_what_retention_needs(night: Night, clips: Clips) -> None:
    batch = night.run([job("a", clips("source", 1), clips("target", 25)), job("b", clips("source", 1), clips("target", 25))])
    for name in "ab":
        units = batch.planner.step(Node(name, "render")).units or []
        manifests = [unit.manifest for unit in units]
        assert len(manifests) == 3
        for unit, manifest in zip(units, manifests, strict=True):
            assert manifest is not None
            committed = night.store.lookup("render", unit.key)
            assert committed is not None
            assert manifest.folder == committed.folder
            assert manifest.files == ()
        (final,) = batch.planner.step(Node(name, "assemble")).units or []
        assert final.manifest is not None
        assert final.manifest.files, "the report reads it"
    assert not {stage for stage, _ in batch._in_flight} & {"retarget", "render"}


def test_videos_come_one_after_another(night: Night, clips: Clips) -> None:
    jobs = [job(f"j{number}", clips(f"source{number}", 1), clips(f"target{number}", 12)) for number in range(12)]
    night.run(jobs)
    first = next(k for k, entry in enumerate(fakes.executions) if entry.startswith("assemble"))
    assert first < len(fakes.executions) / 2, "the first video is done long before the last one is begun"


def test_a_signature_that_cannot_be_made_is_refused_before_anything_runs(
    night: Night, clips: Callable[[str, int], Path], tmp_path: Path
) -> None:
    source, target = clips("a", 5), clips("b", 5)
    jobs = [job("one", source, target, output="one.mkv"), job("two", source, target)]
    chain, key = write_chain(tmp_path)
    signing = {"provenance.certificate": str(chain), "provenance.key": str(key)}
    with pytest.raises(UsageError, match="one: its result is to be signed"):
        require_signable(night.planner(jobs, **signing))
    require_signable(night.planner(jobs))
    require_signable(night.planner(jobs[1:], **signing))
    with pytest.raises(UsageError) as caught:
        require_signable(night.planner(jobs, **{**signing, "provenance.key": str(tmp_path / "none.pem")}))
    assert ["mkv" in problem for problem in caught.value.problems] == [True, False], "all that is wrong, at once"
    assert "none.pem given for signing cannot be read" in caught.value.problems[1]
    gone = {**signing, "provenance.key": str(tmp_path / "none.pem")}
    require_signable(night.planner(jobs[1:], **gone), here=False)


def test_what_is_signed_and_delivered_needs_no_key_any_more(
    night: Night, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign(video: Path, output: Path, **options: Any) -> None:
        output.write_bytes(b"signed")

    monkeypatch.setattr(provenance, "sign", sign)
    jobs = [job("one", clips("a", 1), clips("b", 5))]
    chain, key = write_chain(tmp_path)
    signing = {"provenance.certificate": str(chain), "provenance.key": str(key)}
    night.run(jobs, **signing)
    key.unlink()
    again = night.run(jobs, **signing)
    assert again.outcomes["one"].status == "cached"
    assert (night.out / "one.mp4").read_bytes() == b"signed"
    require_signable(night.planner(jobs, **signing), str(night.out))
    for changed, where in (({}, str(tmp_path / "elsewhere")), ({"provenance.certificate": str(tmp_path / "other.pem")}, "")):
        with pytest.raises(UsageError, match="given for signing cannot be read"):
            require_signable(night.planner(jobs, **{**signing, **changed}), where or None)
    (night.out / "one.mp4").write_bytes(b"another one's")
    with pytest.raises(UsageError, match="given for signing cannot be read"):
        require_signable(night.planner(jobs, **signing), str(night.out))
    night.run(jobs)  # unsigned
    with pytest.raises(UsageError, match="given for signing cannot be read"):
        require_signable(night.planner(jobs, **signing), str(night.out))
    jobs.append(job("two", clips("a", 1), clips("c", 5)))
    with pytest.raises(UsageError, match=r"key\.pem given for signing cannot be read"):
        require_signable(night.planner(jobs, **signing))


def test_a_key_is_asked_for_by_jobs_alone_of_which_something_is_made(
    night: Night, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "sign", lambda video, output, **options: output.write_bytes(b"signed"))
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    done = job("done", clips("a", 1), clips("b", 5))
    failed, missing = job("failed", clips("a", 1), broken), job("missing", clips("a", 1), tmp_path / "none.mp4")
    chain, key = write_chain(tmp_path)
    signing = {"provenance.certificate": str(chain), "provenance.key": str(key)}
    assert night.run([done, failed, missing], **signing).outcomes["failed"].status == "failed"
    key.unlink()
    for jobs in ([done, failed], [done, missing]):
        require_signable(night.planner(jobs, **signing), str(night.out))
    require_signable(night.planner([done, missing], **signing), str(night.out), retry_failed=True)
    with pytest.raises(UsageError, match="given for signing cannot be read"):
        require_signable(night.planner([done, failed], **signing), str(night.out), retry_failed=True)
    (night.out / "done.mp4").unlink()
    for jobs in ([done], [done, failed]):  # to be delivered anew
        with pytest.raises(UsageError, match="given for signing cannot be read"):
            require_signable(night.planner(jobs, **signing), str(night.out))
    with monkeypatch.context() as away:
        # What may pass until the run begins hides no wrong key.
        silent = StoreError("store_unreachable", "no answer", retryable=True)
        away.setattr(sources, "describe", lambda *given, **named: (_ for _ in ()).throw(silent))
        with pytest.raises(UsageError, match="given for signing cannot be read"):
            require_signable(night.planner([done], **signing), str(night.out))


@pytest.mark.parametrize("place", ["nosuch://x/y", "https://[broken/x", "simplecache::https://host:99999/x", "s3://", "s3://a b"])
def test_a_place_for_results_that_cannot_be_one_is_refused_before_anything_runs(night: Night, place: str) -> None:
    with pytest.raises(StoreError) as caught:
        require_place(place, night.settings())
    assert place in caught.value.message
    assert not caught.value.retryable


def test_whoever_denies_a_login_is_believed() -> None:
    denied = type("BadAuthenticationType", (type("AuthenticationException", (Exception,), {}),), {})
    backend = RemoteBackend("sftp://nas/x")
    assert [backend._unopened(error).retryable for error in (denied("no"), Exception("no"), TypeError("no"))] == [
        False,
        True,
        False,
    ]


def test_no_password_is_told_of_a_place_that_cannot_be_one(night: Night) -> None:
    with pytest.raises(StoreError) as caught:
        require_place("https://ada:SECRET#x@cdn.example/o", night.settings())
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("inside", ["", "/sub", "/sub/below"])
def test_a_file_is_no_place_for_results(night: Night, tmp_path: Path, inside: str) -> None:
    (tmp_path / "video.mp4").touch()
    with pytest.raises(StoreError, match=r"video\.mp4 is no folder") as caught:
        require_place(f"{tmp_path / 'video.mp4'}{inside}", night.settings())
    assert not caught.value.retryable


@pytest.mark.parametrize("greeting", [b"421 Too many connections, try again later.\r\n", b""])
def test_a_place_that_is_busy_now_is_not_refused_but_one_that_denies_is(night: Night, greeting: bytes) -> None:
    with answering(greeting) as port:
        require_place(f"ftp://127.0.0.1:{port}/x", night.settings())
    with answering(b"530 Not logged in.\r\n") as port, pytest.raises(StoreError, match="530"):
        require_place(f"ftp://ada:SECRET@127.0.0.1:{port}/x", night.settings())


@contextmanager
def answering(greeting: bytes) -> Iterator[int]:
    """A server's port: it says one thing to everybody, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(greeting)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_results_and_retries_go_where_the_store_is_with_its_container_and_user(tmp_path: Path) -> None:
    for url in ("abfs://store@ours.dfs.core.windows.net/x", "sftp://ada:SECRET@nas/store"):
        store = ArtifactStore(RemoteBackend(url), tmp_path, {"key": "secret"})
        assert default_output(store, "night") == f"{url}/results/night"
        assert settings_of_record(store, {"settings": {}}, {}).store == url
        assert store.options_for(f"{url}/a.mp4") == {"key": "secret"}
        assert "SECRET" not in store.url


def test_results_go_into_a_folder_whatever_it_is_called(night: Night, clips: Clips) -> None:
    night.out = night.folder / "a::b"
    night.run([job(name, clips("source", 1), clips(name, 12)) for name in ("one", "two")])
    assert {path.name for path in night.out.glob("*.mp4")} == {"one.mp4", "two.mp4"}


def test_a_place_for_results_that_does_not_answer_now_may_do_so_by_then(night: Night, tmp_path: Path) -> None:
    for place in (str(tmp_path / "new"), "memory://new", "s3://bucket/x", "https://nosuchhost.example/x"):
        require_place(place, night.settings())
    assert list(tmp_path.glob("new*")) == [], "nor is anything made there before there are results"


def test_an_address_that_is_odd_or_none_fails_its_own_job(night: Night, clips: Clips) -> None:
    source = clips("a", 1)
    fsspec.filesystem("memory").pipe_file("/b[1]/odd.mp4", clips("odd", 5).read_bytes())
    jobs = [job("good", source, clips("b", 5))]
    targets = {
        "broken": "https://[broken/b.mp4",
        "nobody": "~nobody-here/b.mp4",
        "long": "x" * 300,
        "odd": "memory://b[1]/odd.mp4",
    }
    jobs += [jobs[0].model_copy(update={"id": name, "target": url}) for name, url in targets.items()]
    outcomes = night.run(jobs).outcomes
    assert {name for name, outcome in outcomes.items() if outcome.status == "done"} == {"good", "odd"}
    codes = {name: outcome.failure.code for name, outcome in outcomes.items() if outcome.failure is not None}
    assert codes == {"broken": "file_missing", "nobody": "file_missing", "long": "file_denied"}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/media/ada.png", "ada.png"),
        ("/media/take #2?.mp4", "take #2?.mp4"),
        ("s3://bucket/a#1.mp4", "a#1.mp4"),
        ("file:///media/a?b.mp4", "a?b.mp4"),
        ("https://cdn.example/x/ada.png?sig=SECRET#t", "ada.png"),
        ("http://ada:SECRET@cdn.example/?id=ada&sig=SECRET", "http://cdn.example"),
        ("https://ada:SECRET@cdn.example", "https://cdn.example"),
        ("HTTPS://cdn.example/ada.png?sig=SECRET", "ada.png"),
        ("simplecache::https://cdn.example/ada.png?sig=SECRET", "ada.png"),
        ("zip://a.mp4::https://cdn.example/b.zip?sig=SECRET", "a.mp4"),
        ("zip://takes/a.mp4::s3://bucket/b.zip", "a.mp4"),
        ("zip://::https://cdn.example/b.zip?sig=SECRET", "b.zip"),
        ("simplecache::https://ada:SECRET@cdn.example/?id=3", "https://cdn.example"),
    ],
)
def test_the_name_of_a_medium_holds_no_credentials_of_its_address(url: str, name: str) -> None:
    assert Clip(url).name == name
