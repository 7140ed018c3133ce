"""What the paper's Shape-Agnostic Mask and Hair Enhancement are worth: pipelines trained alike, each without a part of them.

    python -m benchmarks.ablations --out DIR [--people 8]
    python -m benchmarks.ablations --out DIR --train [NAME ...]     only trains these; without a name, what all share

The paper shows both in pictures: without the mask heads keep the shape of the video's own head; without the enhancement hair
of the video's own head comes out on the shoulders. Here they are counted, on renders, which know the true swap. Every way trains
from the same first weights (one autoencoder for all, trained on pictures as in the paper) on the same people, windows, references
and noise; only how the pictures are composed differs, and at work they are composed in the same way. Then heads are put on the
held-out performances of others, in rooms and on bodies in which those heads were never seen: the condition image is of the body's
own video, the landmarks are those of the true swap.

Columns: PSNR over the true head; then, of the pixels that are head in only one of the two pictures (the true swap, the body's own
video) and look different there, the share that came out right. Where only the true swap has head: nearer to it than to the body's
own video. Where only the video has head: nearer to the true swap than to the video's own head and than to the new head's hair and
skin, in which a leak of the old shape would be painted. At the outline of the head that is background that was head or head that
was background, on the shoulders cloth that was hair or hair that was cloth.

Each way is trained once. What a training more or less changes is told by a second one as in the paper, from another seed.
Intervals are over bodies (over heads where the new head decides where there is something to count), which are few.

Writes ``ablations.json`` and ``ablations.jpg`` (reference, the body's own video, each way, truth) and replaces the section of
``docs/training.md``. What is trained is not trained again. Several calls may train different ways beside each other once what
they share is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import document
from benchmarks.learning import through_autoencoder, write_sheet
from benchmarks.trained import registry
from schemas.problems import HeadswapError
from stages.blocks import dilate, shape_agnostic_mask
from stages.condition_image import BORDER, head_mask, surviving_cloth
from stages.filling import fill_smooth
from stages.metrics.retargeting import bootstrap_interval
from stages.networks.loading import load_pipeline
from stages.networks.sampling import SamplingOptions
from stages.segmentation import BACKGROUND, CLOTH, FACE, HAIR, NECK, OTHER
from stages.training.augmentation import (
    FOREIGN_REFERENCES,
    NO_AUGMENTATION,
    Augmentation,
    Draw,
    Window,
    before,
    compose,
)
from stages.training.performer_data import PerformerSamples, Split
from stages.training.recipe import Recipe
from stages.training.recipe_files import chosen_recipe
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

LEAST_SHARE, LEAST_GROUPS = 4, 4
"""A zone counts from a side's pixels divided by this on; an interval is given from this many bodies or heads on."""

SHOWN = 6
SKY = np.full(3, np.inf)
"""Colour of what is not there: far from every picture."""

FIRST = "as in the paper"
HEAD = "head"
OF_BODY = ("background that was head", "cloth that was hair")
"""Zones that the body's own head makes; the others the new head makes."""


@dataclass(frozen=True)
class Way:
    """How pictures are composed, in training and at work.

    Attributes:
        blocks: backgrounds are filled in blocks, else along the person's outline.
        scaled: foreground and cloth get a common random factor (training only).
        enhanced: hair blocks and rectangles eat into the cloth, else all of it is shown.
        than: the ways that it is compared with; from the first it differs in one thing. repeat: added to the recipe's seed.
    """

    blocks: bool = True
    scaled: bool = True
    enhanced: bool = True
    than: tuple[str, ...] = (FIRST,)
    repeat: int = 0

    @property
    def composition(self) -> str:
        """All that decides the pictures, in words."""
        return f"blocks {self.blocks}, scaled {self.scaled}, enhanced {self.enhanced}, outline {OUTLINE}"

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
    FIRST: Way(),
    "the same from another seed": Way(repeat=1),
    "no common random scale": Way(scaled=False),
    "nor blocks: holes along the outline": Way(blocks=False, scaled=False, than=("no common random scale", FIRST)),
    "the whole cloth shown": Way(enhanced=False),
}


@dataclass(frozen=True, eq=False)
class Swap:
    """A head to put on another's body.

    Attributes:
        body, head: numbers of the people. sample: what the pipeline is given, and the truth, before the background as it is
            filled in. own: uint8 [size, size, 3], the body's own picture, likewise.
        shown: uint8 [2, size, size, 3], own picture and truth before the true background.
        zones: boolean [size, size] by name, where only one of these shows the head, and they look different.
        colours: float [2, 3], of the new head's hair and skin.
    """

    body: int
    head: int
    sample: TrainingSample
    own: Pixels
    shown: Pixels
    zones: dict[str, Mask]
    colours: NDArray[np.float64]


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
        body = number % len(self.performers.people)
        own_window, _, drawn = self.performers.drawn(number, 1, body)
        window, reference, _ = self.performers.drawn(number, 1, head)
        own_filled = self.way.filled(own_window, number)
        own = self.way.compose(own_filled, reference, drawn)
        true = self.way.compose(before(window, own_filled.backgrounds), reference, drawn)
        shown, labels = np.stack([own_window.pictures[0], window.pictures[0]]), window.labels[0]
        differ = np.abs(shown[0].astype(np.int32) - shown[1]).max(-1) > DIFFERENT
        return Swap(
            body,
            head,
            replace(true, background=own.background),
            own.target[0],
            shown,
            {name: zone & differ for name, zone in zones(own_window.labels[0], labels).items()},
            np.stack([np.median(shown[1][labels == part], axis=0) if (labels == part).any() else SKY for part in (HAIR, FACE)]),
        )


def zones(own: Pixels, true: Pixels) -> dict[str, Mask]:
    """Where only one of two pictures shows the head, by what the other one shows there.

    Args:
        own, true: uint8 [size, size], label maps of the body's own video and of the true swap.
    """
    was, is_now = head_mask(own), head_mask(true)
    return {
        "background that was head": was & ~is_now & (true == BACKGROUND),
        "cloth that was hair": (own == HAIR) & ~is_now & (true == CLOTH),
        "head that was background": ~was & is_now & (own == BACKGROUND),
        "hair that was cloth": (true == HAIR) & (own == CLOTH),
    }


def told(picture: Pixels, swap: Swap) -> dict[str, tuple[int, int]]:
    """For each zone how many pixels came out right, and how many there are."""

    def distance(other: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.square(picture.astype(np.float64) - other).sum(-1))

    true, own = distance(swap.sample.target[0]), distance(swap.own)
    leak = np.minimum(own, np.min([distance(colour) for colour in swap.colours], axis=0))
    found = {}
    for name, zone in swap.zones.items():
        wrong = leak if name in OF_BODY else own
        found[name] = int((zone & (true < wrong)).sum()), int(zone.sum())
    return found


def measure(pictures: Sequence[Pixels], swaps: Sequence[Swap]) -> dict[str, list[float]]:
    """Values by column, one for each swap; NaN where there is next to nothing to count."""
    values = {HEAD: [head_psnr(picture[None], swap.sample) for picture, swap in zip(pictures, swaps, strict=True)]}
    for picture, swap in zip(pictures, swaps, strict=True):
        for name, (right, of) in told(picture, swap).items():
            values.setdefault(name, []).append(right / of if of >= swap.own.shape[0] / LEAST_SHARE else float("nan"))
    return values


def unseen(performers: PerformerSamples, body: int, head: int) -> bool:
    """Whether a head was never seen in training in the rooms, and on the bodies, in which a person's held-out performances take
    place (``PerformerSamples.dressed``)."""
    return all(head ^ body ^ performance not in performers.trained_on for performance in performers.performances)


def chosen_swaps(source: WaySamples, frames: int) -> list[Swap]:
    """Every held-out body, ``frames`` of each, with all heads that were never seen on it."""
    people = len(source.performers.people)
    return [
        source.swap(number, head)
        for number in range(frames * people)
        for head in range(people)
        if head != number % people and unseen(source.performers, number % people, head)
    ]


@dataclass(frozen=True)
class Value:
    """A mean over swaps, and its 95 % interval over bodies or heads; that is NaN where these are fewer than ``LEAST_GROUPS``."""

    mean: float
    low: float
    high: float
    swaps: int
    groups: int


@dataclass(frozen=True)
class Row:
    """What one way reached in every column, and how far that is from what the way ``than`` reached; nothing where it is None."""

    name: str
    than: str | None
    values: dict[str, Value]
    changes: dict[str, Value]


def value_of(numbers: Sequence[float], groups: Sequence[int]) -> Value:
    """The mean of what is finite."""
    own, found = np.array(numbers, np.float64), np.array(groups)
    own, found = own[np.isfinite(own)], found[np.isfinite(own)]
    count = len(np.unique(found))
    low, high = bootstrap_interval(own, found, seed=0) if count >= LEAST_GROUPS else (float("nan"),) * 2
    return Value(float(own.mean()) if len(own) else float("nan"), low, high, len(own), count)


def over_bodies(column: str) -> bool:
    """Whether a column's swaps belong together by the body, else by the head."""
    return column == HEAD or column in OF_BODY


def summary(values: dict[str, dict[str, list[float]]], swaps: Sequence[Swap]) -> list[Row]:
    """The rows of the table: each way by itself and against the ways that it is compared with, on the same swaps."""
    rows = []
    for name, columns in values.items():
        groups = {column: [swap.body if over_bodies(column) else swap.head for swap in swaps] for column in columns}
        own = {column: value_of(numbers, groups[column]) for column, numbers in columns.items()}
        compared: list[str | None] = [other for other in WAYS[name].than if other != name] if name in WAYS else []
        for than in compared or [None]:
            changes = {
                column: value_of((np.array(numbers) - np.array(values[than][column])).tolist(), groups[column])
                for column, numbers in columns.items()
                if than is not None
            }
            rows.append(Row(name, than, own, changes))
    return rows


def written(rows: Sequence[Row]) -> str:
    """The summary as a table: means, and for ways that are compared the differences with their intervals."""
    columns = {}
    for column, value in rows[0].values.items():
        of = "bodies" if over_bodies(column) else "heads"
        columns[column] = f"{column}, {'dB' if column == HEAD else '%'} ({value.swaps} swaps, {value.groups} {of})"
    cells = []
    for row in rows:
        several = row.than is not None and len(WAYS[row.name].than) > 1
        line = [f"{row.name} (compared with {row.than})" if several else row.name]
        for column, value in row.values.items():
            factor, digits = (1, 2) if column == HEAD else (100, 0)
            text = "–" if np.isnan(value.mean) else f"{factor * value.mean:.{digits}f}"
            change = row.changes.get(column)
            if change is not None and not np.isnan(change.mean):
                interval = (
                    "" if np.isnan(change.low) else f": {factor * change.low:+.{digits}f} to {factor * change.high:+.{digits}f}"
                )
                text += f" ({factor * change.mean:+.{digits}f}{interval})"
            line.append(text)
        cells.append(line)
    return document.table(["", *columns.values()], cells)


def parts(recipe: Recipe, repeat: int = 0) -> tuple[Recipe, Recipe]:
    """The recipe of what all ways share, and that of each."""
    return (
        recipe.model_copy(update={"phases": recipe.phases[:1]}),
        recipe.model_copy(update={"phases": recipe.phases[1:], "start": "published", "seed": recipe.seed + repeat}),
    )


class Bench:
    """Trains and measures in a folder.

    Args:
        out: the folder. recipe: of what is trained. people: number of performers. head_model: packed ICT-FaceKit.
    """

    def __init__(self, out: Path, recipe: Recipe, people: int, head_model: Path) -> None:
        self.out, self.recipe, self.people, self.head_model = out, recipe, people, head_model

    def samples(self, way: Way, split: Split) -> WaySamples:
        training = split == "train"
        performers = PerformerSamples(
            self.head_model,
            self.out / "clips",
            people=self.people,
            size=self.recipe.largest_size,
            seed=SEED,
            performances=PERFORMANCES,
            frames=FRAMES,
            split=split,
            augmentation=way.augmentation if training else NO_AUGMENTATION,
            foreign_references=FOREIGN_REFERENCES if training else 0.0,
            true_backgrounds=True,
        )
        return WaySamples(performers, way)

    def train(self, name: str | None) -> Path:
        """A way, or with None what all share; the folder of its pipeline."""
        way = Way() if name is None else WAYS[name]
        shared, each = parts(self.recipe, way.repeat)
        autoencoder, samples = self.out / "autoencoder", self.samples(way, "train")
        order = Order(
            shared if name is None else each,
            autoencoder if name is None else self.out / slug(name),
            samples,
            self.samples(way, "held_out"),
            f"{self.people} synthetic performers, composed with {way.composition}",
            start=None if name is None else autoencoder / "pipelines" / shared.phases[-1].name,
            device="cpu",
            data_digest=f"{samples.performers.digest} {way.composition}",
        )
        return train(order, resume=True, tell=lambda *progress: print(*progress, flush=True))

    def compare(self, frames: int) -> str:
        """Measure what is trained; writes numbers and pictures, and gives the table."""
        options = SamplingOptions(
            steps=self.recipe.validation_steps, guidance_scale=self.recipe.validation_guidance, window=2, overlap=0
        )
        values: dict[str, dict[str, list[float]]] = {}
        shown: list[list[Pixels]] = []
        for name, way in WAYS.items():
            swaps = chosen_swaps(self.samples(way, "held_out"), frames)
            pipeline = load_pipeline(self.out / slug(name) / "pipeline")
            pictures = [generate(pipeline, swap.sample, options)[0] for swap in swaps]
            values[name] = measure(pictures, swaps)
            places = list(range(0, len(swaps), max(1, len(swaps) // SHOWN)))[:SHOWN]
            shown = shown or [[swaps[k].sample.reference, swaps[k].shown[0]] for k in places]
            for row, k in zip(shown, places, strict=True):
                row.append(pictures[k])
            if name == FIRST:  # what numbers mean: nothing drawn, and all that the autoencoder lets through
                drawn = [through_autoencoder(pipeline, swap.sample.target[0]) for swap in swaps]
                limits = {
                    "the condition image": measure([swap.sample.background[0] for swap in swaps], swaps),
                    "the truth through the autoencoder": measure(drawn, swaps),
                }
        for row, k in zip(shown, places, strict=True):
            row.append(swaps[k].shown[1])
        found = summary({**values, **limits}, swaps)
        pairs = [{"body": swap.body, "head": swap.head} for swap in swaps]
        numbers = {
            way: {name: [none_for_nan(v) for v in column] for name, column in each.items()} for way, each in values.items()
        }
        (self.out / "ablations.json").write_text(json.dumps({"swaps": pairs, "values": numbers}, indent=1) + "\n")
        write_sheet(shown, self.out / "ablations.jpg", side=150)
        return written(found)


def none_for_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", nargs="*", choices=list(WAYS), help="train these, and measure nothing")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--frames", type=int, default=4, help="frames of each body")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--head-model", type=Path, help="packed ICT-FaceKit; default: the registered one")
    given = parser.parse_args()
    try:
        head_model = given.head_model or registry().require("ict")
        bench = Bench(given.out, chosen_recipe(given.recipe, "demo"), given.people, head_model)
        for name in (None, *(WAYS if given.train is None else given.train)):
            bench.train(name)
        if given.train is None:
            text = bench.compare(given.frames)
            document.replace("ablations", text, DOCUMENT)
            print(text)
    except HeadswapError as error:
        parser.exit(2, f"{error}\n")


def slug(name: str) -> str:
    return name.replace(":", "").replace(" ", "-")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the same result, whatever else the machine does; run two ways beside each other
    main()
