"""Does training learn? Measures a trained pipeline on held-out performances of the people it was trained on.

    python -m benchmarks.learning PIPELINE --data performers:seed=11,people=5 --out DIR

``--unseen`` says that it was not trained on these people. Generates held-out samples and compares the heads with the truth, with
what simple means would give, and with each other's people; then puts every person's head on every other's body, where the head
must be the reference's and not the body's. Twice: with landmarks as at work, where they have been retargeted to the reference's
face (only renders have the truth of that, and of the picture), and with those of the body's own face, which tell whose head it
was. Several frames of each body, because a pair's single frame may succeed or fail by chance. Heads are compared where both are
heads: a comparison that takes in the outline would find every picture on a body like that body's own head, whose outline it is
cut out along.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.trained import opened, parser_of
from stages.networks import vae as autoencoder
from stages.networks.loading import load_pipeline
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.registered import read_sampling
from stages.networks.runtime import find_device
from stages.networks.sampling import SamplingOptions
from stages.training.augmentation import NO_AUGMENTATION
from stages.training.batches import planes
from stages.training.performer_data import PerformerSamples
from stages.training.samples import SampleSource, TrainingSample
from stages.training.sheets import mosaic
from stages.training.validation import generate, head_psnr

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

LOOK = 32
"""Side of the small pictures by which heads are told apart."""

WINDOW, WINDOWS = 8, 3
"""Frames and number of the windows on which steadiness is measured."""

TRAINING_HEADS = 200
"""Heads from which the mean heads are made."""


@dataclass(frozen=True)
class Case:
    """A swap to generate.

    Attributes:
        reference: the person whose head it is to be. body: the person whose performance and room they are, the same for what is
            no swap. frame: the place of the held-out sample that it is made on. sample: what the pipeline is given.
    """

    reference: str
    body: str
    frame: int
    sample: TrainingSample


@dataclass(frozen=True)
class Swaps:
    """Whose head was generated when every person's reference was put on every other's body.

    Attributes:
        counts: swaps whose head is nearest to the ``reference``'s person, to the one whose ``body`` it was, to ``others``.
        with_outline: the same, compared with the outline.
        head_psnr: against the truth, dB, of the swaps and of what simple means would give; empty where there is no truth.
        sheet: a row for each reference: itself, then the generated picture on the first frame of each body, its own included.
    """

    counts: dict[str, int]
    with_outline: dict[str, int]
    head_psnr: dict[str, float]
    sheet: list[list[Pixels]]


@dataclass(frozen=True)
class Measured:
    """What was found: ``numbers`` for the document, and the pictures of its sheets by name, rows of pictures."""

    numbers: dict[str, object]
    sheets: dict[str, list[list[Pixels]]]


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """Top, bottom, left, right (exclusive) of what is set."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def fitted(picture: Pixels, inside: Mask, box: tuple[int, int, int, int], onto: Pixels) -> Pixels:
    """A head cut out along ``inside``, stretched to a box, put on a picture."""
    top, bottom, left, right = box_of(inside)
    size = (box[3] - box[2], box[1] - box[0])
    head = cv2.resize(picture[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(inside[top:bottom, left:right].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    result = onto.copy()
    place = result[box[0] : box[1], box[2] : box[3]]
    place[mask] = head[mask]
    return result


@dataclass(frozen=True, eq=False)
class Look:
    """A head as it looks in small, its box at ``LOOK`` squared.

    Attributes:
        person: whose head. frame: of which sample. colours: float32 [LOOK, LOOK, 3]. inside: bool [LOOK, LOOK], what is head.
    """

    person: str
    frame: int
    colours: NDArray[np.float32]
    inside: Mask


def look(picture: Pixels, inside: Mask, person: str = "", frame: int = -1) -> Look:
    """The head in a picture, cut out along ``inside``."""
    top, bottom, left, right = box_of(inside)
    head = picture[top:bottom, left:right].astype(np.float32)
    share = cv2.resize(inside[top:bottom, left:right].astype(np.float32), (LOOK, LOOK), interpolation=cv2.INTER_AREA)
    return Look(person, frame, cv2.resize(head, (LOOK, LOOK), interpolation=cv2.INTER_AREA), share > 0.5)


def difference(one: Look, other: Look, *, outline: bool) -> float:
    """Mean square of the difference of two heads, where both are heads; with the ``outline`` everywhere, what is no head grey."""
    if not outline:
        both = one.inside & other.inside
        return float(np.square(one.colours - other.colours)[both].mean()) if both.any() else float("inf")
    first, second = (np.where(look.inside[..., None], look.colours, np.float32(128)) for look in (one, other))
    return float(np.square(first - second).mean())


def mean_heads(source: SampleSource) -> dict[str, Pixels]:
    """Each person's mean head in training, 64 x 64, as far as it is head in most pictures."""
    found: dict[str, list[Pixels]] = {}
    for number in range(TRAINING_HEADS):
        sample = source.sample(number, 1)
        top, bottom, left, right = box_of(sample.head[0])
        found.setdefault(sample.person, []).append(cv2.resize(sample.target[0, top:bottom, left:right], (64, 64)))
    return {person: np.mean(heads, 0).round().astype(np.uint8) for person, heads in found.items()}


def nearest(looked: Look, known: Sequence[Look], *, outline: bool = False) -> str:
    """Whose head looks most like it; heads of the frame that it was made on are not asked."""
    asked = [look for look in known if look.frame != looked.frame]
    return min(asked, key=lambda look: difference(looked, look, outline=outline)).person


def measure(
    pipeline: HeadSwapPipeline,
    train: SampleSource,
    held_out: SampleSource,
    options: SamplingOptions,
    dtype: torch.dtype,
    count: int,
    bodies: int = 1,
    *,
    unseen: bool = False,
) -> Measured:
    """All measurements.

    Args:
        pipeline: trained. train, held_out: samples. options: of the sampler. dtype: precision. count: held-out samples.
        bodies: frames of each body that every other head is put on. unseen: whether the pipeline knows nothing of these people,
            also not of ``train``; such rows then say so.
    """
    samples = [held_out.sample(number, 1) for number in range(count)]
    people = sorted({sample.person for sample in samples})
    means = mean_heads(train)
    whole = np.ones((64, 64), bool)
    values: dict[str, list[float]] = {}
    started = time.perf_counter()
    sheet: dict[str, list[Pixels]] = {}
    looks = [look(sample.target[0], sample.head[0], sample.person, place) for place, sample in enumerate(samples)]
    generated = []
    for sample in samples:
        generated.append(generate(pipeline, sample, options, dtype)[0])
        sheet.setdefault(sample.person, row_of(sample, generated[-1]))
    seconds = (time.perf_counter() - started) / count
    own = dict.fromkeys(("generated", "generated, with the outline", "condition image alone"), 0)
    for place, (sample, picture) in enumerate(zip(samples, generated, strict=True)):
        truth, head, condition = sample.target[0], sample.head[0], sample.background[0]
        others = {
            "generated": picture,
            "autoencoder alone (the ceiling)": through_autoencoder(pipeline, truth),
            **simple_means(sample),
            "mean head of the person elsewhere, stretched likewise": fitted(means[sample.person], whole, box_of(head), condition),
        }
        for name, other in others.items():
            values.setdefault(name, []).append(head_psnr(other[None], sample))
        made = look(picture, head, frame=place)
        own["generated"] += nearest(made, looks) == sample.person
        own["generated, with the outline"] += nearest(made, looks, outline=True) == sample.person
        own["condition image alone"] += nearest(look(condition, head, frame=place), looks) == sample.person
    seen = {"other performances" if unseen else "training samples, not augmented": as_at_work(train)}
    if isinstance(held_out, PerformerSamples):
        seen["held out, references from other performances"] = with_foreign_references(held_out)
    for name, source in seen.items():
        others_seen = [source.sample(number, 1) for number in range(count // 2)]
        values[f"generated: {name}"] = [head_psnr(generate(pipeline, sample, options, dtype), sample) for sample in others_seen]
    cases = {"landmarks of the body": swaps_of(samples, bodies)}
    if isinstance(held_out, PerformerSamples):
        cases["landmarks as at work"] = swaps_of(samples, bodies, held_out)
    swaps = {name: swap_heads(pipeline, chosen, looks, options, dtype) for name, chosen in cases.items()}
    numbers: dict[str, object] = {
        "held_out_samples": count,
        "people": len(people),
        "people_were_trained_on": not unseen,
        "head_psnr_db": {name: round(float(np.mean(found)), 2) for name, found in values.items()},
        "head_psnr_db_of_generated_by_person": {
            person: round(float(np.mean([v for v, s in zip(values["generated"], samples, strict=True) if s.person == person])), 2)
            for person in people
        },
        "nearest_is_own_person": {name: f"{found} of {count}" for name, found in own.items()},
        "swaps": {name: told_of(found) for name, found in swaps.items()},
        "seconds_per_picture": round(seconds, 2),
        "sampler": {"steps": options.steps, "guidance": options.guidance_scale, "shared_noise": options.shared_noise},
    }
    sheets = {"learning": [sheet[person] for person in people], "learning-swaps": swaps["landmarks of the body"].sheet}
    if true := cases.get("landmarks as at work"):
        sheets["learning-true-swaps"] = swaps["landmarks as at work"].sheet
        sheets["learning-true-swaps-truth"] = sheet_of(true, [case.sample.target[0] for case in true])
    return Measured(numbers, sheets)


def simple_means(sample: TrainingSample) -> dict[str, Pixels]:
    """What can be had without a network."""
    condition, cut_out = sample.background[0], np.asarray((sample.reference < 250).any(-1))
    return {
        "condition image alone": condition,
        "reference, stretched to the true head's box": fitted(sample.reference, cut_out, box_of(sample.head[0]), condition),
    }


def frames_of(samples: Sequence[TrainingSample]) -> dict[str, list[int]]:
    """The places of each person's samples, by person in order."""
    found: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        found.setdefault(sample.person, []).append(place)
    return dict(sorted(found.items()))


def swaps_of(samples: Sequence[TrainingSample], bodies: int, truth: PerformerSamples | None = None) -> list[Case]:
    """Every person's reference on held-out frames of every other, and on one frame of the own.

    Args:
        samples: held out, of one frame, several of each person; a person's first one lends the reference.
        bodies: frames of each body; fewer where there are no more.
        truth: where ``samples`` are from, from number 0 on. With it each swap is rendered, and its landmarks are the
            reference's, as at work; without it they are the body's own.
    """
    frames, cases = frames_of(samples), []
    heads = {} if truth is None else {truth.name(number): place for place, number in enumerate(truth.people)}
    for person, own in frames.items():
        reference = samples[own[0]].reference
        for other, places in frames.items():
            for place in places[: 1 if other == person else bodies]:
                sample = truth.swap(place, 1, heads[person]) if truth is not None and other != person else samples[place]
                cases.append(Case(person, other, place, replace(sample, reference=reference)))
    return cases


def swap_heads(
    pipeline: HeadSwapPipeline, cases: Sequence[Case], looks: Sequence[Look], options: SamplingOptions, dtype: torch.dtype
) -> Swaps:
    """Generate swaps, and see whose heads come out.

    Args:
        cases: to generate. looks: true heads to compare with, ``frame`` the place among the held-out samples.
    """
    counts, with_outline = ({"reference": 0, "body": 0, "others": 0} for _ in range(2))
    pictures: list[Pixels] = []
    psnrs: dict[str, list[float]] = {}
    for case in cases:
        pictures.append(generate(pipeline, case.sample, options, dtype)[0])
        if case.body == case.reference:
            continue
        if case.sample.person == case.reference:
            for name, picture in {"generated": pictures[-1], **simple_means(case.sample)}.items():
                psnrs.setdefault(name, []).append(head_psnr(picture[None], case.sample))
        made = look(pictures[-1], case.sample.head[0], frame=case.frame)
        for counted, outline in ((counts, False), (with_outline, True)):
            whose = nearest(made, looks, outline=outline)
            counted["reference" if whose == case.reference else "body" if whose == case.body else "others"] += 1
    means = {name: float(np.mean(found)) for name, found in psnrs.items()}
    return Swaps(counts, with_outline, means, sheet_of(cases, pictures))


def sheet_of(cases: Sequence[Case], pictures: Sequence[Pixels]) -> list[list[Pixels]]:
    """A row for each reference: itself, then the first picture on each body."""
    rows: dict[str, dict[str, Pixels]] = {}
    for case, picture in zip(cases, pictures, strict=True):
        rows.setdefault(case.reference, {"": case.sample.reference}).setdefault(case.body, picture)
    return [list(row.values()) for row in rows.values()]


def told_of(swaps: Swaps) -> dict[str, object]:
    """Swaps as numbers for the document."""
    total = sum(swaps.counts.values())
    return {
        "nearest_to": {name: f"{found} of {total}" for name, found in swaps.counts.items()},
        "nearest_to_with_outline": {name: f"{found} of {total}" for name, found in swaps.with_outline.items()},
        **({"head_psnr_db": {name: round(found, 2) for name, found in swaps.head_psnr.items()}} if swaps.head_psnr else {}),
    }


def steadiness(
    pipeline: HeadSwapPipeline, held_out: SampleSource, options: SamplingOptions, dtype: torch.dtype
) -> dict[str, float]:
    """Change from frame to frame inside the head, mean absolute, in grey values of 255, over windows of ``WINDOW`` frames of
    ``WINDOWS`` people: of the true pictures, of these through the autoencoder, of the generated ones; and how far the changes of
    the latter two are from the true ones (that of a still picture would be the true change itself). With the PSNR of the heads in
    these windows, dB."""
    found: dict[str, list[float]] = {}
    for number in range(WINDOWS):
        sample = held_out.sample(number, WINDOW)
        inside = sample.head[1:]
        copies = np.stack([through_autoencoder(pipeline, picture) for picture in sample.target])
        pictures = generate(pipeline, sample, replace(options, window=WINDOW), dtype)
        true, copied, made = (np.diff(frames.astype(np.float32), axis=0) for frames in (sample.target, copies, pictures))
        for name, change in (
            ("true", true),
            ("through the autoencoder", copied),
            ("generated", made),
            ("through the autoencoder - true", copied - true),
            ("generated - true", made - true),
        ):
            found.setdefault(name, []).append(float(np.abs(change)[inside].mean()))
        found.setdefault("head_psnr_db", []).append(head_psnr(pictures, sample))
    return {name: round(float(np.mean(values)), 2) for name, values in found.items()}


def as_at_work(train: SampleSource) -> SampleSource:
    """The training samples without augmentation and with references of the same clip, as the held-out ones are."""
    if not isinstance(train, PerformerSamples):
        return train
    plain = copy.copy(train)
    plain.augmentation, plain.foreign_references = NO_AUGMENTATION, 0.0
    return plain


def with_foreign_references(held_out: PerformerSamples) -> SampleSource:
    """Held-out samples whose references are of other performances: other light, as at work."""
    foreign = copy.copy(held_out)
    foreign.foreign_references = 1.0
    return foreign


def row_of(sample: TrainingSample, picture: Pixels) -> list[Pixels]:
    return [sample.reference, sample.drawing[0], sample.background[0], picture, sample.target[0]]


def through_autoencoder(pipeline: HeadSwapPipeline, picture: Pixels) -> Pixels:
    with torch.no_grad():
        pixels = planes(picture[None]).float().to(pipeline.device) / 255
        copy = autoencoder.decode(pipeline.vae, autoencoder.encode(pipeline.vae, pixels))
    return np.asarray((copy[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def write_sheet(rows: Sequence[Sequence[Pixels]], path: Path, side: int = 176) -> None:
    """Rows of pictures as one JPEG."""
    small = [[cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in pictures] for pictures in rows]
    if not cv2.imwrite(str(path), mosaic(small)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90]):
        raise OSError(f"{path} could not be written")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--unseen", action="store_true", help="the pipeline was trained on other people than those of --data")
    parser.add_argument("--bodies", type=int, default=3, help="frames of each body that every other head is put on")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--without-motion", type=Path, help="pipeline of the phase before motion, to compare steadiness with")
    given = parser.parse_args()
    trained = opened(parser, given)
    pipeline, held_out, dtype = trained.pipeline, trained.held_out, trained.dtype
    said = read_sampling(given.pipeline) or trained.recipe.sampling  # pipelines between phases do not say
    shared = said.get("shared_noise", 0.0)
    options = SamplingOptions(steps=given.steps, guidance_scale=given.guidance, window=2, overlap=0, shared_noise=shared)
    found = measure(pipeline, trained.train, held_out, options, dtype, given.samples, given.bodies, unseen=given.unseen)
    numbers = {"data": trained.told, **found.numbers}
    numbers["change_from_frame_to_frame"] = steadiness(pipeline, held_out, options, dtype)
    if shared:
        alone = replace(options, shared_noise=0.0)
        numbers["change_from_frame_to_frame_where_noise_is_not_shared"] = steadiness(pipeline, held_out, alone, dtype)
    if given.without_motion is not None:
        before = load_pipeline(given.without_motion).to(find_device(given.device))
        numbers["change_from_frame_to_frame_without_motion"] = steadiness(before, held_out, options, dtype)
    (given.out / "learning.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for name, rows in found.sheets.items():
        write_sheet(rows, given.out / f"{name}.jpg")
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
