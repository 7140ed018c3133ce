"""Settings of the sampler are counted and compared on the same frames and noise."""

from __future__ import annotations

import torch

from benchmarks.samplers import Setting, compare, evaluations, settings
from tests.pipelines import random_pipeline
from tests.stages.training.made_up_samples import Discs


def test_a_guided_step_counts_twice_and_only_where_guidance_is_on() -> None:
    pipeline = random_pipeline()
    assert evaluations(pipeline, Setting("ddim", 10, 2.0)) == 20
    assert evaluations(pipeline, Setting("ddim", 10, 1.0)) == 10
    assert evaluations(pipeline, Setting("ddim", 10, 2.0, (0.0, 0.5))) == 15


def test_settings_are_compared_frame_by_frame_with_the_first_one() -> None:
    discs = Discs(seed=1)
    samples = [discs.sample(number, 1) for number in range(3)]
    base = Setting("ddim", 2, 2.0)
    rows, sheet = compare(random_pipeline(), samples, [base, base, Setting("dpm++", 2, 2.0)], torch.float32)
    assert rows[0]["head_psnr_db"] == rows[1]["head_psnr_db"]
    assert rows[1]["change_db"] == rows[1]["standard_error_db"] == 0
    assert all(len(row) == 4 and row[1].tolist() == row[2].tolist() for row in sheet)


def test_the_first_setting_is_the_one_that_was_validated_and_names_differ() -> None:
    chosen = settings(1.5, 12)
    assert chosen[0] == Setting("ddim", 12, 1.5)
    assert len({setting.name for setting in chosen}) == len(chosen)
