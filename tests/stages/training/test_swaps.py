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
    looks = [(one.person, learning.look(one.target[0], one.head[0])) for one in samples]
    pipeline: Any = None  # never asked
    found = learning.swap_heads(pipeline, samples, looks, SamplingOptions(), torch.float32, bodies=3)
    assert (found.to_reference, found.to_body, found.to_others) == expected
    assert [len(row) for row in found.sheet] == [1 + len(GREYS)] * len(GREYS)
