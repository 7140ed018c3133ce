"""How long clips are by their headers: good enough for an estimate, and cheap for a whole catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schemas.problems import HeadswapError
from stages.video.index import open_container, picture_stream
from stages.video.pictures import is_picture


def stated_frames(paths: Sequence[Path]) -> list[int | None]:
    """Frames of each file as its header states them, or as its duration and rate suggest; None where it says neither.

    Files are untrusted: call it through ``stages.video.sandbox.run_limited``.
    """
    return [_stated(path) for path in paths]


def _stated(path: Path) -> int | None:
    try:
        if is_picture(path):
            return 1
        with open_container(path) as container:
            stream = picture_stream(container, path)
            if stream.frames:
                return int(stream.frames)
            seconds = None
            if stream.duration is not None and stream.time_base is not None:
                seconds = float(stream.duration * stream.time_base)
            elif container.duration is not None:
                seconds = container.duration / 1_000_000
            rate = stream.average_rate
            return None if seconds is None or not rate else max(1, round(seconds * float(rate)))
    except (HeadswapError, OSError, ValueError):
        return None  # whatever is wrong with it, its own stage will say
