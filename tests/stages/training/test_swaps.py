"""The benchmark's swaps: whose head comes out, counted over several frames of each body."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import learning
from stages.networks.sampling import SamplingOptions
from stages.training.samples import TrainingSample

SIZE, GREYS = 16, {"ada": 20, "ben": 120, "cem": 220}


def sample(person: str, frame: int) -> TrainingSample:
    def filled(value: int) -> Any:
        return np.full((1, SIZE, SIZE, 3), value, np.uint8)

    head = np.zeros((1, SIZE, SIZE), bool)
    head[:, 3:12, 4:13] = True
    return TrainingSample(
        reference=filled(GREYS[person])[0],
        target=filled(GREYS[person]),
        drawing=filled(0),
        background=filled(frame),
        head=head,
        face_points=np.zeros((1, 5, 2), np.float32),
        person=person,
        frame_numbers=(frame,),
    )


@pytest.mark.parametrize(("follows", "expected"), [("reference", (12, 0, 0)), ("body", (0, 12, 0)), ("cem", (4, 4, 4))])
def test_swaps_are_counted_by_whose_head_comes_out(
    monkeypatch: pytest.MonkeyPatch, follows: str, expected: tuple[int, int, int]
) -> None:
    def generated(pipeline: object, given: TrainingSample, *_: object) -> Any:
        if follows == "reference":
            return given.reference[None]
        return given.target if follows == "body" else sample(follows, 0).target

    monkeypatch.setattr(learning, "generate", generated)
    samples = [sample(person, frame) for frame in range(2) for person in GREYS]
    looks = [learning.look(one.target[0], one.head[0], one.person, place) for place, one in enumerate(samples)]
    pipeline: Any = None  # never asked
    cases = learning.swaps_of(samples, bodies=3)
    found = learning.swap_heads(pipeline, cases, looks, SamplingOptions(), torch.float32)
    for counts in (found.counts, found.with_outline):
        assert tuple(counts.values()) == expected
    assert not found.head_psnr  # these have no truth
    assert [len(row) for row in found.sheet] == [1 + len(GREYS)] * len(GREYS)


def test_swaps_of_which_the_truth_is_known_are_compared_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def generated(pipeline: object, given: TrainingSample, *_: object) -> Any:
        return np.full_like(given.target, GREYS["ada"])

    monkeypatch.setattr(learning, "generate", generated)
    samples = [sample(person, frame) for frame in range(2) for person in GREYS]
    looks = [learning.look(one.target[0], one.head[0], one.person, place) for place, one in enumerate(samples)]
    cases = [learning.Case(person, body, place, sample(person, 0)) for person in GREYS for place, body in enumerate(GREYS)]
    pipeline: Any = None  # never asked
    found = learning.swap_heads(pipeline, cases, looks, SamplingOptions(), torch.float32)
    assert found.counts == {"reference": 2, "body": 2, "others": 2}
    names = ("condition image alone", "generated", "reference, stretched to the true head's box")
    condition, made, stretched = (found.head_psnr[name] for name in names)
    assert condition < made < stretched


def test_heads_are_compared_where_both_are_heads() -> None:
    """A head of the one's colours, cut out along the other's outline, is the one's."""
    ada, ben = np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    ada[6:10, 6:10] = True  # short hair
    ben[2:15, 2:15] = True
    ben[6:10, :2] = True
    known = [
        learning.look(np.full((SIZE, SIZE, 3), grey, np.uint8), inside, person)
        for person, grey, inside in (("ada", 100, ada), ("ben", 140, ben))
    ]
    made = learning.look(np.full((SIZE, SIZE, 3), 105, np.uint8), ben, frame=0)
    assert learning.nearest(made, known) == "ada"


def test_the_head_of_the_very_frame_is_not_asked() -> None:
    inside = np.ones((SIZE, SIZE), bool)
    known = [
        learning.look(np.full((SIZE, SIZE, 3), grey, np.uint8), inside, person, frame)
        for frame, (person, grey) in enumerate((("ada", 100), ("ben", 200)))
    ]
    made = learning.look(np.full((SIZE, SIZE, 3), 100, np.uint8), inside, frame=0)
    assert learning.nearest(made, known) == "ben"
