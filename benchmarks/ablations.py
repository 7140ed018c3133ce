"""What the paper's Shape-Agnostic Mask and Hair Enhancement are worth: pipelines trained alike, each without a part of them.

    python -m benchmarks.ablations --out DIR [--only NAME ...] [--people 8]

The paper shows both in pictures: without the mask heads keep the shape of the video's own head; without the enhancement hair
of the video's own head comes out on the shoulders. Here they are counted, on renders, which know the true swap. Every way trains
from the same first weights (one autoencoder for all) on the same people, windows, references and noise; only how the pictures are
composed differs, and at work they are composed in the same way. Then heads are put on the held-out performances of others: the
condition image is of the body's own video, the landmarks are those of the true swap.

Columns: PSNR over the true head; then, of the pixels that are head in only one of the two pictures (the true swap, the body's own
video) and look different there, the share that came out nearer to the true swap: at the outline of the head, where background was
head or head was background, and on the shoulders, where cloth was hair or hair was cloth. All is the truth, none the body's own
video.

Writes ``ablations.json`` and ``ablations.jpg`` (reference, the body's own video, each way, truth) and replaces the section of
``docs/training.md``. ``--resume`` is implied: what is trained is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import document
from benchmarks.learning import write_sheet
from schemas.problems import HeadswapError
from stages.blocks import dilate, shape_agnostic_mask
from stages.condition_image import BORDER, head_mask, surviving_cloth
from stages.filling import fill_smooth
from stages.metrics.retargeting import bootstrap_interval
from stages.networks.loading import load_pipeline
from stages.networks.registry import ModelRegistry
from stages.networks.sampling import SamplingOptions
from stages.segmentation import BACKGROUND, CLOTH, FACE, HAIR, NECK, OTHER
from stages.training.augmentation import (
    FOREIGN_REFERENCES,
    NO_AUGMENTATION,
    Augmentation,
    Draw,
    Window,
    compose,
    foreground_layer,
    over,
)
from stages.training.performer_data import PerformerSamples, Split
from stages.training.recipe import Recipe, chosen_recipe
from stages.training.run import Order, train
from stages.training.samples import TrainingSample
from stages.training.validation import generate, head_psnr

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "training.md"
RECIPE = Path(__file__).with_suffix(".yaml")

SEED = 31
PERFORMANCES, FRAMES = 5, 24
OUTLINE = 0.01
"""Share of the side by which the person's own outline is grown where no blocks are used: an inpainter needs that much."""

DIFFERENT = 24
"""Grey values by which the true swap and the body's own picture differ in a channel where it is asked which one was drawn."""

SHOWN = 5


@dataclass(frozen=True)
class Way:
    """How pictures are composed, in training and at work.

    Attributes:
        blocks: backgrounds are filled in blocks, else along the person's outline.
        scaled: foreground and cloth get a common random factor (training only).
        enhanced: hair blocks and rectangles eat into the cloth, else all of it is shown.
    """

    blocks: bool = True
    scaled: bool = True
    enhanced: bool = True

    @property
    def augmentation(self) -> Augmentation:
        usual = Augmentation()
        return replace(
            usual,
            smallest=usual.smallest if self.scaled else 1.0,
            largest=usual.largest if self.scaled else 1.0,
            long_hair=usual.long_hair if self.enhanced else 0.0,
        )

    def filled(self, window: Window, seed: int) -> Window:
        """The window before a background as an inpainter leaves it, who knows the whole person of each frame removed."""
        person = window.labels != BACKGROUND
        backgrounds = np.stack([self._inpainted(*each, seed) for each in zip(window.backgrounds, person, strict=True)])
        return before(window, backgrounds)

    def cloth(self, labels: Pixels, shoulders: NDArray[np.float32], hair: Mask | None) -> Mask:
        """The cloth that is shown, boolean [size, size]."""
        if self.enhanced:
            return surviving_cloth(labels, shoulders, hair)
        return (labels == CLOTH) & ~dilate(np.isin(labels, (HAIR, FACE, NECK, OTHER)), max(BORDER * len(labels), 1.0))

    def compose(self, window: Window, reference: Pixels, drawn: Draw) -> TrainingSample:
        return compose(window, reference, drawn, self.cloth)

    def _inpainted(self, background: Pixels, person: Mask, seed: int) -> Pixels:
        hole = shape_agnostic_mask(person) if self.blocks else dilate(person, OUTLINE * len(person))
        return fill_smooth(background, ~hole, seed)


WAYS = {
    "as in the paper": Way(),
    "no common random scale": Way(scaled=False),
    "nor blocks: holes along the outline": Way(blocks=False, scaled=False),
    "the whole cloth shown": Way(enhanced=False),
}


@dataclass(frozen=True, eq=False)
class Swap:
    """A head to put on another's body.

    Attributes:
        sample: what the pipeline is given, and the truth. own: uint8 [size, size, 3], the body's own picture.
        zones: boolean [size, size] by name, where truth and own picture differ in being head.
    """

    sample: TrainingSample
    own: Pixels
    zones: dict[str, Mask]


class WaySamples:
    """Performers as one way composes them: a ``stages.training.samples.SampleSource``."""

    def __init__(self, performers: PerformerSamples, way: Way) -> None:
        self.performers, self.way = performers, way

    def sample(self, number: int, frames: int) -> TrainingSample:
        """The sample with this number."""
        window, reference, drawn = self.performers.drawn(number, frames, number % len(self.performers.people))
        return self.way.compose(self.way.filled(window, number), reference, drawn)

    def swap(self, number: int, head: int) -> Swap:
        """The sample with this number as a swap: its video's condition image, another's head, landmarks and reference."""
        own_window, _, drawn = self.performers.drawn(number, 1, number % len(self.performers.people))
        window, reference, _ = self.performers.drawn(number, 1, head)
        own_filled = self.way.filled(own_window, number)
        own = self.way.compose(own_filled, reference, drawn)
        true = self.way.compose(before(window, own_filled.backgrounds), reference, drawn)
        labels = own_window.labels[0], window.labels[0]
        return Swap(replace(true, background=own.background), own.target[0], zones(*labels))


def before(window: Window, backgrounds: Pixels) -> Window:
    """The window's people before other backgrounds."""
    pictures = np.empty_like(window.pictures)
    for k, picture in enumerate(window.pictures):
        opacity = window.opacity[k].astype(np.float32) / 255
        pictures[k] = over(backgrounds[k], foreground_layer(picture, window.backgrounds[k], opacity), opacity)
    return replace(window, pictures=pictures, backgrounds=backgrounds)


def zones(own: Pixels, true: Pixels) -> dict[str, Mask]:
    """Where only one of two pictures shows the head, by what the other one shows there.

    Args:
        own, true: uint8 [size, size], label maps of the body's own video and of the true swap.
    """
    was, is_now = head_mask(own), head_mask(true)
    return {
        "background that was head": was & ~is_now & (true == BACKGROUND),
        "head that was background": ~was & is_now & (own == BACKGROUND),
        "cloth that was hair": (own == HAIR) & ~is_now & (true == CLOTH),
        "hair that was cloth": (true == HAIR) & (own == CLOTH),
    }


def told(picture: Pixels, swap: Swap) -> dict[str, tuple[int, int]]:
    """For each zone how many pixels came out nearer to the true swap, and how many there are."""
    true, own = swap.sample.target[0].astype(np.int32), swap.own.astype(np.int32)
    differ = np.abs(true - own).max(-1) > DIFFERENT
    right = np.square(picture - true).sum(-1) < np.square(picture - own).sum(-1)
    return {name: (int((zone & differ & right).sum()), int((zone & differ).sum())) for name, zone in swap.zones.items()}


def measure(folder: Path, swaps: Sequence[Swap], options: SamplingOptions) -> tuple[dict[str, list[float]], list[Pixels]]:
    """A trained way's values by column, one for each swap (NaN where a zone is empty), and its pictures."""
    pipeline = load_pipeline(folder)
    pictures = [generate(pipeline, swap.sample, options)[0] for swap in swaps]
    values: dict[str, list[float]] = {"head": [head_psnr(p[None], s.sample) for p, s in zip(pictures, swaps, strict=True)]}
    for picture, swap in zip(pictures, swaps, strict=True):
        for name, (right, of) in told(picture, swap).items():
            values.setdefault(name, []).append(right / of if of >= swap.own.shape[0] else float("nan"))
    return values, pictures


def chosen_swaps(source: WaySamples, frames: int, heads: int) -> list[Swap]:
    """Every held-out body, ``frames`` of each, with the heads of the next ``heads`` people."""
    people = len(source.performers.people)
    return [
        source.swap(number, (number + step) % people)
        for number in range(frames * people)
        for step in range(1, min(heads, people - 1) + 1)
    ]


def summary(values: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Of each way and column: mean and its 95 % interval, and the same of the difference from the first way."""
    first = next(iter(values.values()))
    found: dict[str, dict[str, list[float]]] = {}
    for way, columns in values.items():
        for column, numbers in columns.items():
            own = np.array(numbers)
            change = own - np.array(first[column])
            found.setdefault(way, {})[column] = [
                float(value) for kept in (own[np.isfinite(own)], change[np.isfinite(change)]) for value in with_interval(kept)
            ]
    return found


def with_interval(numbers: NDArray[np.float64]) -> tuple[float, float, float]:
    low, high = bootstrap_interval(numbers, np.arange(len(numbers)), seed=0)
    return float(numbers.mean()), low, high


def written(found: dict[str, dict[str, list[float]]]) -> str:
    """The summary as a table: means, and in brackets the interval of the difference from the first way."""
    columns = list(next(iter(found.values())))
    rows = []
    for place, (way, values) in enumerate(found.items()):
        row = [way]
        for column in columns:
            mean, low, high, _, less, more = values[column]
            factor, digits = (1, 2) if column == "head" else (100, 0)
            interval = (low, high) if place == 0 else (less, more)
            bounds = " to ".join(f"{'' if place == 0 or bound < 0 else '+'}{factor * bound:.{digits}f}" for bound in interval)
            row.append(f"{factor * mean:.{digits}f} ({bounds})")
        rows.append(row)
    return document.table(["", *("head, dB" if column == "head" else f"{column}, %" for column in columns)], rows)


def parts(recipe: Recipe) -> tuple[Recipe, Recipe]:
    """The recipe of what all ways share, and that of each."""
    return (
        recipe.model_copy(update={"phases": recipe.phases[:1]}),
        recipe.model_copy(update={"phases": recipe.phases[1:], "start": "published"}),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--heads", type=int, default=4, help="heads that are put on each body")
    parser.add_argument("--frames", type=int, default=4, help="frames of each body")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--head-model", type=Path, help="packed ICT-FaceKit; default: the registered one")
    parser.add_argument("--train-only", action="store_true", help="leave measuring to a later call that trains nothing")
    given = parser.parse_args()
    try:
        head_model = given.head_model or ModelRegistry().require("ict")
        recipe = chosen_recipe(given.recipe, "demo")
    except HeadswapError as error:
        parser.exit(2, f"{error}\n")
    shared, each = parts(recipe)

    def samples(way: Way, split: Split) -> WaySamples:
        training = split == "train"
        performers = PerformerSamples(
            head_model,
            given.out / "clips",
            people=given.people,
            size=recipe.largest_size,
            seed=SEED,
            performances=PERFORMANCES,
            frames=FRAMES,
            split=split,
            augmentation=way.augmentation if training else NO_AUGMENTATION,
            foreign_references=FOREIGN_REFERENCES if training else 0.0,
            true_backgrounds=True,
        )
        return WaySamples(performers, way)

    def order(part: Recipe, out: Path, way: Way, start: Path | None) -> Order:
        data = f"{given.people} synthetic performers, composed {way}"
        digest = f"{samples(way, 'train').performers.digest} {way}"
        return Order(
            part, out, samples(way, "train"), samples(way, "held_out"), data, start=start, device="cpu", data_digest=digest
        )

    def tell(*progress: object) -> None:
        print(*progress, flush=True)

    autoencoder = given.out / "autoencoder"
    train(order(shared, autoencoder, Way(), None), resume=True, tell=tell)
    start = autoencoder / "pipelines" / shared.phases[-1].name
    for name in given.only:
        train(order(each, given.out / slug(name), WAYS[name], start), resume=True, tell=tell)
    if given.train_only:
        return
    options = SamplingOptions(steps=recipe.validation_steps, guidance_scale=recipe.validation_guidance, window=2, overlap=0)
    values: dict[str, dict[str, list[float]]] = {}
    sheet: list[list[Pixels]] = []
    for name in given.only:
        swaps = chosen_swaps(samples(WAYS[name], "held_out"), given.frames, given.heads)
        values[name], pictures = measure(given.out / slug(name) / "pipeline", swaps, options)
        shown = range(0, len(swaps), max(1, len(swaps) // SHOWN))[:SHOWN]
        sheet = sheet or [[swaps[k].sample.reference, swaps[k].own] for k in shown]
        for row, k in zip(sheet, shown, strict=True):
            row.append(pictures[k])
    for row, k in zip(sheet, shown, strict=True):
        row.append(swaps[k].sample.target[0])
    found = summary(values)
    (given.out / "ablations.json").write_text(
        json.dumps({"swaps": len(swaps), "summary": found, "values": values}, indent=1) + "\n"
    )
    write_sheet(sheet, given.out / "ablations.jpg", side=160)
    text = written(found)
    if given.only == list(WAYS):
        document.replace("ablations", text, DOCUMENT)
    print(text)


def slug(name: str) -> str:
    return name.replace(":", "").replace(" ", "-")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the same result, whatever else the machine does; run two ways beside each other
    main()
