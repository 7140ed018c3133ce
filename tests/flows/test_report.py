"""What the report page promises: failures first, nothing from elsewhere, nothing that people wrote becomes markup."""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
import weakref
import zlib
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import av
import numpy as np
import numpy.typing as npt
import pytest

from flows import report_media
from flows.report import (
    READERS,
    JobFailure,
    JobReport,
    RunReport,
    Status,
    build_report,
    duration,
    embedded,
    fewer_ranges,
    flagged_ranges,
    kept_ranges,
    packed,
)
from flows.report_media import MediaFolder
from stages.metrics.verdict import MEASURES
from stages.video.decode import open_clip, probe
from tests.flows.browser import Browser, executable

HOSTILE = '<img src=x onerror="document.title=1">&</script><script>document.title=2</script>'


def measures(frames: int, rate: float = 25.0) -> dict[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(1)
    columns: dict[str, npt.NDArray[np.generic]] = {name: rng.uniform(0, 1, frames).astype(np.float32) for name in MEASURES}
    columns["identity"] = np.full(frames, np.nan, np.float32)
    generated = np.ones(frames, bool)
    generated[frames // 2 : frames // 2 + 3] = False
    flags = np.array([""] * frames, dtype=object)
    flags[5:9], flags[20] = "landmark_error", "seam"
    return {"frame": np.arange(frames), "seconds": np.arange(frames) / rate, "generated": generated, "flags": flags, **columns}


def done(examples: Path, name: str = "ada", clip: str = "clip_smile", **changes: object) -> JobReport:
    target = examples / f"{clip}.mp4"
    frames = probe(target).frames
    values: dict[str, object] = {
        "id": name,
        "source": str(examples / "portrait_ada.png"),
        "target": str(target),
        "rights": "synthetic",
        "status": "done",
        "output": str(target),
        "measures": partial(measures, frames, 30.0),
        "verdict": {
            "grade": "check",
            "reasons": ["5 frames."],
            "frames": {"total": frames},
            "means": {"seam": 0.5},
            "worst": {"seam": 1},
        },
        "notes": ["The end of the target is missing."],
        "parameters": {"render": {"renderer": "warp"}},
        "provenance": {"rights": "synthetic", "kind": "https://example.org/composite"},
    }
    return JobReport(**{**values, **changes})  # type: ignore[arg-type]


def failed(name: str = "broken") -> JobReport:
    failure = JobFailure("file_missing", f"{name}.mp4 does not exist.", "Check the path in the catalogue.", "ingest")
    return JobReport(name, "a.png", f"{name}.mp4", "synthetic", "failed", failure)


def page(tmp_path: Path, *jobs: JobReport) -> str:
    return build_report(RunReport("night", "run-1", jobs, 61.0), tmp_path / "report").read_text(encoding="utf-8")


def details(text: str) -> list[dict[str, object]]:
    found = re.findall(r'<script type="application/json" id="data-\d+">(.*?)</script>', text, re.DOTALL)
    return [json.loads(document) for document in found]


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_failures_come_first_with_code_reason_and_remedy(tmp_path: Path, examples: Path) -> None:
    text = page(tmp_path, done(examples), failed())
    body = text[text.index("<main>") :]
    assert (
        body.index("file_missing") < body.index("broken.mp4 does not exist.") < body.index("Check the path") < body.index(">ada<")
    )
    assert body.index(">broken<", body.index("<tbody")) < body.index(">ada<", body.index("<tbody"))


def test_page_names_no_address_elsewhere(tmp_path: Path, examples: Path) -> None:
    text = page(tmp_path, done(examples), failed())
    assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text, re.IGNORECASE)
    for tag, attributes in Tags(text).found:
        for name in ("src", "href", "action", "poster"):
            address = attributes.get(name)
            assert address is None or address.startswith("data:"), (tag, address)
    (ada, _) = details(text)
    for medium in ada["media"].values():  # type: ignore[attr-defined]
        assert (tmp_path / "report" / unquote(medium["address"])).is_file()
    assert ada["provenance"] == {"rights": "synthetic", "kind": "https://example.org/composite"}


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_page_tells_no_credentials_of_an_address(tmp_path: Path, status: Status) -> None:
    addresses = ("https://cdn.example/a.png?sig=SECRET", "sftp://x:it's SECRET@h/b.mp4")
    rights = "https://dms.example/release?number=4711"
    told = f"Look at {addresses[0]} and {addresses[1]}."
    job = JobReport(
        "one",
        *addresses,
        rights,
        status,
        JobFailure("file_missing", told, told, "ingest") if status == "failed" else None,
        output="sftp://x:SECRET@nas/one.mp4",
        notes=[told],
        parameters={"track": {"subject": addresses[0]}, "list": [addresses[1]]},
        provenance={"source": addresses[0], "rights": rights},
        verdict={"grade": "check", "reasons": [told], "frames": {"total": 3}},
    )
    settings = {"out": "ftp://x:SECRET@nas/results"}
    run = RunReport("night", "run-1", (job,), 61.0, output="sftp://x:SECRET@nas", settings=settings, notes=[told])
    text = build_report(run, tmp_path / "report").read_text(encoding="utf-8")
    assert "SECRET" not in text
    (told_of_job,) = details(text)
    assert told_of_job["source"] == "https://cdn.example/a.png?…"
    assert told_of_job["rights"] == rights
    assert told_of_job["provenance"]["rights"] == rights  # type: ignore[index]
    assert "ftp://nas/results" in text


def test_nothing_that_people_wrote_becomes_markup(tmp_path: Path, examples: Path) -> None:
    failure = JobFailure(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    jobs = (
        done(examples, HOSTILE, rights=HOSTILE, notes=[HOSTILE], provenance={HOSTILE: HOSTILE}, verdict={"reasons": [HOSTILE]}),
        JobReport(HOSTILE, HOSTILE, HOSTILE, HOSTILE, "failed", failure),
    )
    run = RunReport(HOSTILE, HOSTILE, jobs, output=HOSTILE, settings={HOSTILE: HOSTILE}, notes=[HOSTILE], started=HOSTILE)
    text = build_report(run, tmp_path / "report").read_text(encoding="utf-8")
    tags = Tags(text).found
    assert not [tag for tag, attributes in tags if tag == "img" or "onerror" in attributes]
    # Plots, two jobs, the page's own script: no fifth one.
    assert sum(tag == "script" for tag, _ in tags) == 5
    assert details(text)[0]["rights"] == HOSTILE


def test_job_tells_what_was_kept_and_flagged(tmp_path: Path, examples: Path) -> None:
    (job,) = details(page(tmp_path, done(examples)))
    assert job["kept"] == [[45, 48]]
    assert job["flagged"] == [[5, 9, "landmark_error"], [20, 21, "seam"]]
    assert job["notes"] == ["The end of the target is missing."]
    assert job["parameters"] == 0
    assert "identity" not in job["series"]  # type: ignore[operator]


def test_a_thousand_jobs_stay_one_small_page(tmp_path: Path, examples: Path) -> None:
    one = done(examples)
    jobs = [replace(one, id=f"job-{number:04d}") for number in range(1000)]
    text = page(tmp_path, *jobs)
    assert len(text.encode()) < 6_000_000
    assert len(details(text)) == 1000
    assert len(list((tmp_path / "report" / "media").iterdir())) == 2


def test_building_again_gives_the_same_page(tmp_path: Path, examples: Path) -> None:
    assert page(tmp_path, done(examples), failed()) == page(tmp_path, done(examples), failed())


def test_result_beside_a_remote_report_is_linked_by_its_place(tmp_path: Path, examples: Path) -> None:
    job = done(examples, output="s3://bucket/out/scene 1/ada.mp4")
    text = build_report(RunReport("night", "run", [job], output="s3://bucket/out"), tmp_path).read_text(encoding="utf-8")
    (detail,) = details(text)
    assert detail["output_link"] == "../scene%201/ada.mp4"


def test_media_that_are_gone_are_said_to_be(tmp_path: Path, examples: Path) -> None:
    (job,) = details(page(tmp_path, done(examples, source="/nowhere/x.png", target="s3://bucket/clip.mp4")))
    notes = " ".join(job["notes"])  # type: ignore[arg-type]
    assert "/nowhere/x.png is not there any more." in notes
    assert "s3://bucket/clip.mp4 is not on this machine" in notes


def remuxed(path: Path, to: Path) -> Path:
    """The same video in a container that browsers do not play."""
    with av.open(str(path)) as source, av.open(str(to), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return to


def test_media_that_nobody_can_decode_are_notes_of_their_own(tmp_path: Path, examples: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    bomb = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    good = str(examples / "portrait_ada.png")
    media = MediaFolder(tmp_path / "report")
    (tmp_path / "report").mkdir()
    media.prepare([(str(text), False), (str(text), True), (str(bomb), False), (good, False)])
    for path in (text, bomb):
        assert media.show(str(path)).kind == "none"
        assert f"{path.name} cannot be shown" in media.show(str(path)).note
    assert media.show(str(text), in_place=True).kind == "none"
    assert media.show(good).kind == "picture"


def test_a_medium_that_takes_too_long_holds_nothing_up(tmp_path: Path, examples: Path) -> None:
    odd = str(remuxed(examples / "clip_turn.mp4", tmp_path / "odd.mkv"))
    plain = str(examples / "clip_turn.mp4")
    media = MediaFolder(tmp_path, seconds=0.05)
    media.prepare([(odd, False), (plain, False)])
    assert "took longer than 0.05 seconds" in media.show(odd).note
    assert media.show(plain).kind == "video"


def test_other_peoples_media_are_decoded_elsewhere_and_once(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **more: object) -> None:
        raise AssertionError("decoded in the process of the run")

    odd = remuxed(examples / "clip_turn.mp4", tmp_path / "odd.mkv")
    wanted = [(str(path), False) for path in (odd, examples / "clip_turn.mp4", examples / "portrait_ada.png")]
    for name in ("open_container", "open_clip", "read_picture"):
        monkeypatch.setattr(report_media, name, never)
    first = MediaFolder(tmp_path)
    first.prepare(wanted)
    shown = [first.show(*item[:1]) for item in wanted]
    assert [item.kind for item in shown] == ["video", "video", "picture"]
    monkeypatch.setattr(report_media, "run_limited", never)
    again = MediaFolder(tmp_path)
    again.prepare(wanted)
    assert [again.show(address) for address, _ in wanted] == shown


def test_a_preview_of_a_long_video_is_its_beginning(tmp_path: Path, examples: Path) -> None:
    odd = remuxed(examples / "clip_turn.mp4", tmp_path / "odd.mkv")
    shown = MediaFolder(tmp_path, frames=10).show(str(odd))
    assert "first 10 frames" in shown.note
    assert probe(tmp_path / unquote(shown.address)).frames == 10
    assert MediaFolder(tmp_path, frames=10).show(str(odd)) == shown


def test_what_browsers_do_not_play_becomes_a_preview_with_every_frame(tmp_path: Path, examples: Path) -> None:
    odd = remuxed(examples / "clip_turn.mp4", tmp_path / "strange name #1.mkv")
    shown = MediaFolder(tmp_path).show(str(odd))
    assert shown.kind == "video"
    assert "preview" in shown.note
    with open_clip(tmp_path / unquote(shown.address)) as preview, open_clip(odd) as original:
        assert len(preview) == len(original) == 72
        assert max(preview.width, preview.height) <= 640
        small = original.read(30)[:: original.height // 60, :: original.width // 60].astype(float).mean()
        assert abs(preview.read(30).astype(float).mean() - small) < 6


def test_packed_columns_keep_the_worst_of_what_they_join() -> None:
    values = np.zeros(1000)
    values[777] = 8.0
    values[10:20] = np.nan
    column = packed(values, 100, "low")
    assert column is not None
    levels = np.frombuffer(base64.b64decode(column["levels"]), np.uint8)
    assert (column["step"], column["low"], column["high"], len(levels)) == (10, 0.0, 8.0, 100)
    assert levels[77] == 254
    assert levels[1] == 255  # nothing was measured there
    assert packed(np.full(5, np.nan), 100, "low") is None
    likeness = packed(np.array([0.9, 0.1, 0.8, 0.7]), 2, "high")
    assert likeness is not None
    assert (likeness["low"], likeness["high"]) == (0.1, 0.7)


def test_parameters_that_jobs_share_stand_on_the_page_once(tmp_path: Path, examples: Path) -> None:
    other = done(examples, "ben", parameters={"render": {"renderer": HOSTILE}})
    text = page(tmp_path, done(examples, "ada"), other, done(examples, "cleo"))
    found = re.search(r'<script type="application/json" id="parameters">(.*?)</script>', text)
    assert found is not None
    assert json.loads(found[1]) == [{"render.renderer": "warp"}, {"render.renderer": HOSTILE}]
    assert [job["parameters"] for job in details(text)] == [0, 1, 0]


def test_ranges_of_frames() -> None:
    assert flagged_ranges(["", "a", "a", "b", "", "a"]) == [(1, 3, "a"), (3, 4, "b"), (5, 6, "a")]
    assert kept_ranges(np.array([False, True, True, False, False])) == [(0, 1), (3, 5)]
    assert kept_ranges(np.zeros(0, bool)) == []


def test_a_page_is_bounded_also_for_long_restless_videos(tmp_path: Path, examples: Path) -> None:
    frames = 60_000
    columns = measures(frames)
    columns["seconds"] = seconds = np.cumsum(np.random.default_rng(2).uniform(0.01, 0.07, frames))
    columns["generated"] = np.arange(frames) % 3 > 0
    columns["flags"] = np.array(["", "seam", "jitter"] * (frames // 3), dtype=object)
    (job,) = details(page(tmp_path, done(examples, measures=lambda: columns)))
    times, flagged, kept = job["times"], job["flagged"], job["kept"]
    assert len(json.dumps(job)) < 300_000
    listed = np.array(times["list"])  # type: ignore[index]
    between = np.interp(np.arange(frames), np.arange(len(listed)) * times["stride"], listed)  # type: ignore[index]
    assert np.abs(between - seconds).max() < 0.2
    assert flagged[0][0] == 1  # type: ignore[index]
    assert set(flagged[0][2].split(",")) == {"seam", "jitter"}  # type: ignore[index]
    assert (kept[0][0], kept[-1][1]) == (0, frames - 2)  # type: ignore[index]


def test_only_some_jobs_measures_are_in_memory_at_once_and_each_job_shows_its_own(tmp_path: Path, examples: Path) -> None:
    class Columns(dict[str, npt.NDArray[np.generic]]):
        """Can be referred to weakly."""

    alive, most, lock = 0, 0, threading.RLock()

    def count(change: int) -> None:
        nonlocal alive, most
        with lock:
            alive += change
            most = max(most, alive)

    def read(number: int) -> Columns:
        found = Columns(measures(30 + number))
        count(1)
        weakref.finalize(found, count, -1)
        return found

    jobs = [done(examples, f"job{number}", measures=partial(read, number)) for number in range(40)]
    assert [detail["frames"] for detail in details(page(tmp_path, *jobs))] == [30 + number for number in range(40)]
    assert most <= READERS + 2


def test_ranges_with_the_smallest_gaps_are_joined_first() -> None:
    assert fewer_ranges([(0, 2), (3, 4), (9, 10)], 2) == [(0, 4), (9, 10)]
    assert fewer_ranges([(0, 2, "a"), (3, 4, "b,a"), (9, 10, "c")], 2) == [(0, 4, "a,b"), (9, 10, "c")]
    assert fewer_ranges([(0, 2), (3, 4)], 2) == [(0, 2), (3, 4)]


def test_embedded_json_survives_and_closes_nothing() -> None:
    value = {"a": "</script><!--\u2028", "b": [1.5, None], "c": "http://x"}
    assert json.loads(embedded(value)) == value
    assert not set("<>&\u2028") & set(embedded(value))


def test_durations_as_people_say_them() -> None:
    assert [duration(s) for s in (4.21, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = executable()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with Browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found  # type: ignore[misc]


def test_page_plays_plots_and_filters_in_chromium(browser: Browser, tmp_path: Path, examples: Path) -> None:
    other = done(examples, "ben", "clip_turn", verdict={"grade": "good"})
    index = build_report(RunReport("night", "run-1", [done(examples), other, failed()], 9.0), tmp_path / "report")
    browser.open(index)
    assert browser.value("document.querySelector('#job h2').textContent").startswith("ada")
    browser.until("[...document.querySelectorAll('.players video')].length === 2")
    browser.until("[...document.querySelectorAll('.players video')].every(v => v.readyState >= 2 && v.videoWidth === 512)")
    browser.until("document.querySelector('.players img').naturalWidth === 640")
    assert browser.value("document.querySelectorAll('.plot path').length") == 9  # no likeness without a network
    assert browser.value("document.querySelectorAll('.plot rect.flagged').length") == 18

    # A click in a plot brings all players to that frame.
    browser.value(
        "(() => { const svg = document.querySelector('.plot svg'), box = svg.getBoundingClientRect();"
        "svg.dispatchEvent(new MouseEvent('click', {clientX: box.left + box.width * 60.5 / 90, clientY: box.top + 5})); })()"
    )
    assert browser.value("+document.getElementById('scrub').value") == 60
    browser.until("[...document.querySelectorAll('.players video')].every(v => Math.abs(v.currentTime - 60.5 / 30) < 0.01)")

    # Flagged frames show their picture.
    browser.until("[...document.querySelectorAll('.flags canvas')].map(c => c.dataset.frame).join() === '7,20'")

    # Playing moves both, side by side, from one control.
    browser.value("document.getElementById('play').click()")
    browser.until("+document.getElementById('scrub').value > 66")
    browser.value("document.getElementById('play').click()")
    times = browser.value("[...document.querySelectorAll('.players video')].map(v => v.currentTime)")
    assert abs(times[0] - times[1]) < 0.15

    browser.value("const box = document.getElementById('filter'); box.value = 'turn'; box.dispatchEvent(new Event('input'))")
    shown = (
        "[...document.querySelectorAll('#jobs tr')].filter(row => !row.hidden).map(row => row.querySelector('.open').textContent)"
    )
    assert browser.value(shown) == ["ben"]
    browser.value("document.querySelector('#jobs tr:not([hidden]) .open').click()")
    assert browser.value("document.querySelector('#job h2').textContent").startswith("ben")
    assert browser.problems == []


def test_hostile_catalogue_does_nothing_in_chromium(browser: Browser, tmp_path: Path, examples: Path) -> None:
    jobs = [done(examples, HOSTILE, notes=[HOSTILE], rights=HOSTILE, verdict={"grade": HOSTILE, "reasons": [HOSTILE]})]
    browser.open(build_report(RunReport("night", "run-1", jobs), tmp_path / "report"))
    assert browser.value("document.querySelector('#job h2').textContent").startswith(HOSTILE)
    assert browser.value("document.title") == "night – headswap report"
    assert browser.value("document.querySelectorAll('img[src=x]').length") == 0
    assert browser.problems == []
