"""Which chunks of an input a chunk reads."""

from __future__ import annotations

from flows.planning import _within
from stages.contract import Chunk, split_shots

CHUNKS = split_shots([(0, 40), (40, 60)], 10)


def reached(chunk: Chunk, reach: str, margin: int = 0) -> list[int]:
    return [other.index for other in CHUNKS if _within(other, chunk, reach, margin)]


def test_around_goes_by_frames_and_stays_in_the_shot() -> None:
    assert reached(CHUNKS[1], "around") == [1]
    assert reached(CHUNKS[1], "around", 1) == [0, 1, 2]
    assert reached(CHUNKS[1], "around", 10) == [0, 1, 2]
    assert reached(CHUNKS[1], "around", 11) == [0, 1, 2, 3]
    assert reached(CHUNKS[3], "around", 100) == [0, 1, 2, 3]
    assert reached(CHUNKS[4], "around", 100) == [4, 5]


def test_other_reaches_know_no_margin() -> None:
    assert reached(CHUNKS[1], "same", 100) == [1]
    assert reached(CHUNKS[1], "near", 100) == [0, 1, 2]
    assert reached(CHUNKS[1], "all") == [0, 1, 2, 3, 4, 5]
