"""What solver, steps, guidance and its interval cost, and what they are worth: a trained pipeline on held-out samples.

    python -m benchmarks.samplers PIPELINE --data performers:seed=11,people=5 --out DIR

Every setting generates the same frames from the same noise, so settings are compared frame by frame: the PSNR of the heads
against the truth, its mean difference from the first setting with the standard error of that mean, and how many heads are nearest
to their own person's. Cost is counted in evaluations of the DenoisingNet for a frame (a guided step has two) beside the clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.learning import look, nearest, write_sheet
from benchmarks.trained import opened, parser_of
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.sampling import SamplingOptions
from stages.networks.schedulers import Solver, make_scheduler, set_steps
from stages.training.samples import TrainingSample
from stages.training.validation import generate, head_psnr

PEOPLE_SHOWN = 5


@dataclass(frozen=True)
class Setting:
    """One way to sample.

    Attributes:
        solver: its name. steps: of it. guidance: scale. interval: of the noise schedule, where guidance is on.
    """

    solver: Solver
    steps: int
    guidance: float
    interval: tuple[float, float] = (0.0, 1.0)

    @property
    def options(self) -> SamplingOptions:
        return SamplingOptions(
            steps=self.steps, guidance_scale=self.guidance, guidance_interval=self.interval, window=2, overlap=0
        )

    @property
    def name(self) -> str:
        low, high = self.interval
        where = "" if self.interval == (0.0, 1.0) or self.guidance == 1 else f" from {low:g} to {high:g}"
        return f"{self.solver}, {self.steps} steps, guidance {self.guidance:g}{where}"


def settings(guidance: float, steps: int) -> list[Setting]:
    """The setting that the pipeline was validated with first, then one thing changed at a time.

    Args:
        guidance: of the validations, more than 1. steps: of the validations.
    """
    fewer = max(1, 2 * steps // 3)
    return [
        Setting("ddim", steps, guidance),
        Setting("ddim", steps, guidance, (0.0, 0.7)),
        Setting("ddim", steps, guidance, (0.2, 0.7)),
        Setting("ddim", steps, guidance, (0.4, 1.0)),
        Setting("ddim", steps, 1.0),
        Setting("ddim", steps, 2 * guidance),
        Setting("ddim", 2 * steps, guidance),
        Setting("dpm++", fewer, guidance),
        Setting("unipc", fewer, guidance),
    ]


def evaluations(pipeline: HeadSwapPipeline, setting: Setting) -> int:
    """Evaluations of the DenoisingNet for a frame of a single window."""
    options = setting.options
    set_steps(pipeline.scheduler, options.steps)
    trained = int(pipeline.scheduler.config.num_train_timesteps)
    return sum(2 if options.guided(float(timestep), trained) else 1 for timestep in pipeline.scheduler.timesteps)


def compare(
    pipeline: HeadSwapPipeline, samples: Sequence[TrainingSample], chosen: Sequence[Setting], dtype: torch.dtype
) -> tuple[list[dict[str, object]], list[list[NDArray[np.uint8]]]]:
    """A row of numbers for each setting, and for some people a row of pictures: truth, then each setting's.

    Args:
        pipeline: trained; its scheduler is exchanged. samples: held out, of one frame. chosen: settings, the first one to compare
            with. dtype: precision.
    """
    schedule = dict(pipeline.scheduler.config)
    looks = [look(sample.target[0], sample.head[0], sample.person, place) for place, sample in enumerate(samples)]
    first_of = {sample.person: place for place, sample in reversed(list(enumerate(samples)))}
    shown = {place: [samples[place].target[0]] for place in sorted(first_of.values())[:PEOPLE_SHOWN]}
    rows: list[dict[str, object]] = []
    base: NDArray[np.float64] | None = None
    generate(pipeline, samples[0], chosen[0].options, dtype)  # the first picture pays for what is set up once
    for setting in chosen:
        pipeline.scheduler = make_scheduler(setting.solver, schedule)
        cost = evaluations(pipeline, setting)
        psnrs, own, began = [], 0, time.perf_counter()
        pictures = [generate(pipeline, sample, setting.options, dtype)[0] for sample in samples]
        seconds = (time.perf_counter() - began) / len(samples)
        for place, (sample, picture) in enumerate(zip(samples, pictures, strict=True)):
            psnrs.append(head_psnr(picture[None], sample))
            own += nearest(look(picture, sample.head[0], frame=place), looks) == sample.person
            if place in shown:
                shown[place].append(picture)
        found = np.array(psnrs)
        base = found if base is None else base
        change = found - base
        rows.append(
            {
                "setting": setting.name,
                "evaluations": cost,
                "seconds": round(seconds, 2),
                "head_psnr_db": round(float(found.mean()), 2),
                "change_db": round(float(change.mean()), 2),
                "standard_error_db": round(float(change.std(ddof=1) / np.sqrt(len(change))), 2),
                "nearest_is_own_person": f"{own} of {len(samples)}",
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows, list(shown.values())


def main() -> None:
    parser = parser_of(__doc__)
    given = parser.parse_args()
    trained = opened(parser, given)
    recipe, samples = trained.recipe, [trained.held_out.sample(number, 1) for number in range(given.samples)]
    rows, sheet = compare(trained.pipeline, samples, settings(recipe.validation_guidance, recipe.validation_steps), trained.dtype)
    numbers = {"data": trained.told, "samples": given.samples, "precision": given.precision, "settings": rows}
    (given.out / "samplers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    write_sheet(sheet, given.out / "samplers.jpg")


if __name__ == "__main__":
    main()
