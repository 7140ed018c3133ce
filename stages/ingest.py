"""Stage ``ingest``: what a clip is, when each of its frames is shown, where its shots and chunks begin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from schemas.parameters import IngestParameters
from schemas.tables import CHUNKS, FRAMES
from stages.contract import Chunk, Scope, Stage, Work, split_shots
from stages.video.decode import probe, timestamps
from stages.video.facts import StreamFacts
from stages.video.native import native_frames
from stages.video.shots import SMALL_HEIGHT, SMALL_WIDTH, ChangeMeter, find_shots

_REPORT_EVERY = 50
_STILL_SHOTS: list[tuple[int, int]] = [(0, 1)]
_NO_FRAMES: list[int] = []


class Ingest(Stage):
    """Reads every frame once, at a small size.

    Facts written: ``stream``, the document of ``stages.video.facts.StreamFacts``, with ``damaged_frames`` beside it: numbers
    of frames that cannot be decoded and repeat the one before.
    """

    name = "ingest"
    version = 1
    scope = Scope.CLIP
    parameters = IngestParameters
    media = ("clip",)
    tables = (FRAMES, CHUNKS)

    def run(self, work: Work) -> None:
        parameters = work.parameters
        assert isinstance(parameters, IngestParameters)
        path = work.media["clip"]
        facts = probe(path, work.limits)
        if facts.kind == "picture":
            shots, damaged = _STILL_SHOTS, _NO_FRAMES
            work.progress(1)
        else:
            shots, damaged = _scan(path, parameters.shot_threshold, work)
        pts, durations, time_base = timestamps(path)
        chunks = split_shots(shots, parameters.chunk_frames)
        work.output.write_table(
            FRAMES,
            {
                "frame": np.arange(len(pts), dtype=np.int32),
                "pts": pts,
                "duration": durations,
                "seconds": (pts - pts[0]) * float(time_base),
                "shot": shot_of_frames(shots),
            },
        )
        work.output.write_table(CHUNKS, chunk_columns(chunks))
        work.output.facts["stream"] = facts.to_dict()
        work.output.facts["damaged_frames"] = damaged


def shot_of_frames(shots: Sequence[tuple[int, int]]) -> np.ndarray:
    """int32 [frames]: number of the shot that each frame belongs to."""
    return np.repeat(np.arange(len(shots), dtype=np.int32), [stop - start for start, stop in shots])


def chunk_columns(chunks: Sequence[Chunk]) -> dict[str, np.ndarray]:
    """Columns of the table ``chunks``."""
    return {
        "chunk": np.array([chunk.index for chunk in chunks], np.int32),
        "shot": np.array([chunk.shot for chunk in chunks], np.int32),
        "start": np.array([chunk.start for chunk in chunks], np.int32),
        "stop": np.array([chunk.stop for chunk in chunks], np.int32),
    }


def stream_facts(document: object) -> StreamFacts:
    """The ``stream`` facts of an ingest artifact, as an object."""
    assert isinstance(document, dict)
    return StreamFacts.from_dict(document)


def _scan(path: Path, threshold: float, work: Work) -> tuple[list[tuple[int, int]], list[int]]:
    meter = ChangeMeter()
    damaged: list[int] = []
    previous: object = None
    for number, frame in native_frames(path):
        if frame is previous:  # the reader repeats a neighbour where a frame is damaged
            damaged.append(number)
        previous = frame
        meter.add(frame.reformat(SMALL_WIDTH, SMALL_HEIGHT, "rgb24", interpolation="AREA").to_ndarray())
        if (number + 1) % _REPORT_EVERY == 0:
            work.progress(_REPORT_EVERY)
    changes = meter.changes
    work.progress(len(changes) % _REPORT_EVERY)
    return find_shots(changes, threshold), damaged
