"""What is measured. Everything runs through the command line, as an operator would run it."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.document import table
from flows.pipeline import STAGES
from stages.video.decode import open_clip
from tests.media import write_video

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PER_FRAME = ("landmarks", "track", "fit3dmm", "masks", "inpaint", "retarget")
"""What the goal of 25 frames a second and core is about."""


@dataclass
class Measured:
    document: dict[str, Any]
    seconds: float
    peak_bytes: int
    """Largest sum of the proportional memory of the run's processes."""
    peak_worker_bytes: int


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="headswap-benchmark-") as name:
        yield Path(name)


def repeated(clip: str, frames: int, path: Path) -> Path:
    """An example clip played forward and backward until it has ``frames`` frames."""

    def pictures() -> Iterator[np.ndarray]:
        with open_clip(EXAMPLES / clip) as reader:
            there = [picture.copy() for _, picture in reader.iterate()]
        yield from itertools.islice(itertools.cycle([*there, *there[-2:0:-1]]), frames)

    return write_video(path, pictures(), audio=True)


def run(place: Path, rows: Iterable[dict[str, object]], *options: str) -> Measured:
    """A catalogue through ``headswap run --engine direct``, with its memory watched."""
    rows = [{"rights": "synthetic", **row} for row in rows]
    catalogue = place / "catalogue.csv"
    with catalogue.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    command = [sys.executable, "-m", "cli", "run", str(catalogue), "--store", str(place / "store"), "--out", str(place / "out")]
    environment = {**os.environ, "HEADSWAP_MODELS": str(place / "models")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--json", "--engine", "direct", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    peaks = [0, 0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks), daemon=True)
    watcher.start()
    out, _ = process.communicate()
    seconds = time.perf_counter() - began
    document = json.loads(out)
    if document["failed"]:
        raise RuntimeError(f"the benchmark's own job failed: {document['jobs']}")
    return Measured(document, seconds, *peaks)


def _watch(pid: int, peaks: list[int]) -> None:
    try:
        parent = psutil.Process(pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            sizes = []
            for process in [parent, *parent.children(recursive=True)]:
                try:
                    sizes.append(process.memory_full_info().pss)
                except psutil.Error:
                    continue
            peaks[0] = max(peaks[0], sum(sizes))
            peaks[1] = max(peaks[1], *sizes, 0) if sizes else peaks[1]
            time.sleep(0.25)
    except psutil.Error:
        return


def stages() -> str:
    """Frames a second of each stage on one worker, and the share of bookkeeping."""
    frames = 600
    with folder() as place:
        clip = repeated("clip_speech.mp4", frames, place / "speech.mp4")
        measured = run(place, [{"id": "one", "source": EXAMPLES / "portrait_ada.png", "target": clip}], "--workers", "1")
        rows = []
        totals = measured.document["stages"]
        work = book = 0.0
        for name in STAGES:
            total = totals[name]
            count = total["frames"] if name != "ingest" else frames + 1
            work += total["seconds"]
            book += total["bookkeeping_seconds"]
            rows.append(
                [
                    name,
                    f"{1000 * total['seconds'] / count:.1f}",
                    f"{count / total['seconds']:.0f}",
                    f"{100 * total['bookkeeping_seconds'] / total['seconds']:.1f} %",
                ]
            )
        to_retarget = sum(totals[name]["seconds"] / totals[name]["frames"] for name in PER_FRAME)
    return (
        f"## Stages: one job on a 1280x720 clip of {frames} frames, one worker\n\n"
        + table(["stage", "ms a frame", "frames/s", "bookkeeping"], rows)
        + f"\n\nLandmarks to retarget together: {1 / to_retarget:.1f} frames a second on one core (goal: 25). "
        f"Bookkeeping (opening inputs, hashing, committing): {100 * book / work:.2f} % of the work (goal: below 2 %). "
        "The source picture's own passes are included, warm-up of the libraries too."
    )


def job() -> str:
    """A whole warp job on all cores of a small machine."""
    frames = 300
    with folder() as place:
        clip = repeated("clip_speech.mp4", frames, place / "speech.mp4")
        measured = run(place, [{"id": "one", "source": EXAMPLES / "portrait_ada.png", "target": clip}], "--workers", "2")
    return (
        f"## A whole warp job: 1280x720, {frames} frames, two workers\n\n"
        f"{measured.seconds:.1f} s from the command to video and report, {frames / measured.seconds:.1f} frames a second "
        f"(goal: 8), start of the program and its processes included."
    )


def memory() -> str:
    """Peak memory against the length of the video."""
    rows = []
    peaks = []
    for frames in (150, 1500):
        with folder() as place:
            clip = repeated("clip_smile.mp4", frames, place / "smile.mp4")
            measured = run(place, [{"id": "one", "source": EXAMPLES / "portrait_ben.png", "target": clip}], "--workers", "2")
        peaks.append((measured.peak_bytes, measured.peak_worker_bytes))
        rows.append([str(frames), f"{measured.peak_bytes / 2**20:.0f}", f"{measured.peak_worker_bytes / 2**20:.0f}"])
    return (
        "## Memory: two workers, 512x512\n\n"
        + table(["frames", "peak of all processes, MiB", "peak of the largest, MiB"], rows)
        + f"\n\nTen times the length takes {peaks[1][0] / peaks[0][0]:.2f} times the memory (goal: at most 1.1)."
    )


def cached() -> str:
    """A catalogue of 100 jobs again when nothing has to be done."""
    with folder() as place:
        sources = [EXAMPLES / f"portrait_{name}.png" for name in ("ada", "ben", "chi")]
        clips = [repeated("clip_smile.mp4", 4 + number, place / f"clip{number}.mp4") for number in range(10)]
        rows = [
            {"id": f"job{number:03}", "source": sources[number % 3], "target": clips[number % 10], "seed": number}
            for number in range(100)
        ]
        first = run(place, rows, "--workers", "2")
        again = run(place, rows, "--workers", "2")
        assert again.document["cached"] == 100
    return (
        "## A fully cached catalogue of 100 jobs\n\n"
        f"First run (clips of 4 to 13 frames): {first.seconds:.0f} s. The same command again: {again.seconds:.1f} s, of which "
        f"{again.document['seconds']:.1f} s for planning, checking the delivered files and writing the report; the rest "
        "is the start of the program."
    )


def sharing() -> str:
    """Sources and targets are passed over once."""
    with folder() as place:
        clips = [repeated("clip_smile.mp4", 12 + number, place / f"clip{number}.mp4") for number in range(3)]
        heads = [repeated("clip_smile.mp4", 1, place / "head.mp4")]
        sources = [*(EXAMPLES / f"portrait_{name}.png" for name in ("ada", "ben", "chi")), *heads]
        rows = [
            {"id": f"s{s}t{t}", "source": source, "target": clip}
            for s, source in enumerate(sources)
            for t, clip in enumerate(clips)
        ]
        measured = run(place, rows, "--workers", "2")
    totals = measured.document["stages"]
    counted = [[name, str(totals[name]["executed"])] for name in STAGES]
    return "## Sharing: 4 sources on 3 targets, 12 jobs of one chunk\n\n" + table(["stage", "executions"], counted)
