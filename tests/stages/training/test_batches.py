"""Batches depend on their number only, and resizing keeps a sample's parts together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.networks.presets import TINY, build
from stages.training.batches import SampleEncoder, chance, resized, sample_numbers
from tests.stages.training.made_up_samples import Discs


def test_no_sample_is_drawn_twice_by_processes_and_batches() -> None:
    drawn = [number for batch in range(5) for process in range(3) for number in sample_numbers(batch, 4, process, 3)]
    assert sorted(drawn) == list(range(60))


def test_chance_is_a_function_of_its_arguments() -> None:
    assert torch.equal(torch.rand(3, generator=chance(1, "a", 2)), torch.rand(3, generator=chance(1, "a", 2)))
    assert not torch.equal(torch.rand(3, generator=chance(1, "a", 2)), torch.rand(3, generator=chance(1, "a", 3)))


@pytest.mark.parametrize("size", [32, 128])
def test_a_resized_sample_fits_together(size: int) -> None:
    sample = Discs(64).sample(3, 2)
    small = resized(sample, size)
    assert small.target.shape == small.drawing.shape == small.background.shape == (2, size, size, 3)
    assert small.head.shape == (2, size, size)
    rows, columns = np.nonzero(small.head[0])
    assert small.face_points[0, 2] == pytest.approx([columns.mean() + 0.5, rows.mean() + 0.5], abs=0.75)
    inside = small.target[0][small.head[0]].mean(0)
    assert inside == pytest.approx(sample.target[0][sample.head[0]].mean(0), abs=12)
    assert resized(sample, 64) is sample


def test_a_kept_sample_is_encoded_once_and_as_if_it_were_new() -> None:
    class Counted(Discs):
        calls = 0

        def sample(self, number: int, frames: int):  # type: ignore[no-untyped-def]
            self.calls += 1
            return super().sample(number, frames)

    source, vae = Counted(), build(TINY).vae
    kept = SampleEncoder(source, vae, 64, 2, 3, torch.float32)
    first = kept(1)
    assert kept(4) is first
    assert source.calls == 1
    new = SampleEncoder(source, vae, 64, 2, None, torch.float32)(1)
    assert torch.equal(new.target, first.target)
    assert torch.equal(new.background, first.background)
    assert first.target.shape == (4, 2, 8, 8)
    assert not torch.equal(SampleEncoder(source, vae, 64, 2, None, torch.float32)(4).target, first.target)
