"""How well a head's outline can be predicted from what the networks are shown of it, with the masks that hide it and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flows.comparisons import Arrays, Order, Outcome, ResultTable, resumable
from schemas.tables import FOREGROUND_BLOCKS, LABELS
from stages.blocks import dilate, expand_grid, hair_grid, shape_agnostic_grid, shape_agnostic_mask, shoulder_rectangles
from stages.condition_image import surviving_cloth
from stages.crop_path import DROP, head_anchor
from stages.metrics import leakage
from stages.performers.appearance import STYLES, Room
from stages.performers.camera import Camera
from stages.performers.casting import Person
from stages.performers.head import loaded_head_model
from stages.performers.scene import Performer
from stages.video.crops import crop_matrix, opencv_matrix, to_crop

SIZE = 256
"""Side of the crops."""

SEEN, WANTED = 64, 32
"""Sides of the grids of what is seen and of the predicted head mask; shares of the cells' areas."""

CROP_SCALE = 2.6
"""Side of a crop in heights of the face, as the track stage's default."""

_CAMERA = Camera(320, 320, focal=1.45, distance=90.0, aim=(0.0, -3.0))
DILATION = 0.02


@dataclass(frozen=True)
class Silhouette:
    """A person in a crop. labels: uint8 [SIZE, SIZE]; shoulders: float32 [2, 3]; outline: float64 [4], ``leakage.OUTLINE``."""

    labels: npt.NDArray[np.uint8]
    shoulders: npt.NDArray[np.float32]
    outline: npt.NDArray[np.float64]
    style: str


Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Exposure:
    """What the networks are shown: the hole in the background, and cloth. ``block``: blocks a side, 0 for the exact mask."""

    name: str
    hole: Callable[[Mask], Mask]
    cloth: Callable[[Silhouette, Mask], Mask] | None = None
    blocks: int = 0


def _blocks(count: int, dilation: float = DILATION) -> Callable[[Mask], Mask]:
    return lambda person: shape_agnostic_mask(person, dilation, count)


def _grown(dilation: float) -> Callable[[Mask], Mask]:
    return lambda person: dilate(person, dilation * SIZE)


def _box(person: Mask) -> Mask:
    """The upright box around the person, in blocks: nothing of the outline but its extent."""
    grid = shape_agnostic_grid(person, DILATION)
    box = np.zeros_like(grid)
    rows, columns = (np.flatnonzero(grid.any(axis)) for axis in (1, 0))
    if len(rows):
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return expand_grid(box, SIZE)


def _cloth(person: Silhouette) -> Mask:
    return person.labels == LABELS.index("cloth")


def hair_blocks(person: Silhouette) -> Mask:
    """The blocks of a person's hair, boolean [SIZE, SIZE]."""
    return expand_grid(hair_grid(person.labels == LABELS.index("hair")), SIZE)


def _beside_hair(person: Silhouette) -> Mask:
    return _cloth(person) & ~hair_blocks(person)


_DEFAULT = _blocks(FOREGROUND_BLOCKS)

HOLES: tuple[Exposure, ...] = (
    Exposure("exact mask", _grown(0)),
    Exposure("exact mask, grown by 2 %", _grown(DILATION)),
    Exposure("64x64 blocks", _blocks(64), blocks=64),
    Exposure("32x32 blocks", _blocks(32), blocks=32),
    Exposure("16x16 blocks (default)", _DEFAULT, blocks=16),
    Exposure("8x8 blocks", _blocks(8), blocks=8),
    Exposure("16x16 blocks, not grown", _blocks(16, 0.0)),
    Exposure("16x16 blocks, grown by 5 %", _blocks(16, 0.05)),
    Exposure("16x16 blocks, grown by 10 %", _blocks(16, 0.1)),
    Exposure("box around all 16x16 blocks", _box),
)
"""The hole alone, no cloth. Masks are grown by 2 % of the side before blocks are drawn unless they say otherwise."""

CLOTHED: tuple[Exposure, ...] = (
    Exposure("exact mask, all cloth", _grown(0), lambda person, _: _cloth(person)),
    Exposure("16x16 blocks, all cloth", _DEFAULT, lambda person, _: _cloth(person)),
    Exposure("16x16 blocks, cloth outside M_rect", _DEFAULT, lambda p, _: _cloth(p) & ~shoulder_rectangles(p.shoulders, SIZE)),
    Exposure("16x16 blocks, cloth beside the own hair's blocks", _DEFAULT, lambda person, _: _beside_hair(person)),
    Exposure(
        "16x16 blocks, surviving cloth at work", _DEFAULT, lambda person, _: surviving_cloth(person.labels, person.shoulders)
    ),
    Exposure(
        "16x16 blocks, surviving cloth in training",
        _DEFAULT,
        lambda person, hair: surviving_cloth(person.labels, person.shoulders, hair),
    ),
)
"""The hole and cloth: hair enhancement off, its parts, at work (own hair, rectangles), in training (a stranger's hair too)."""


def compare(order: Order) -> Outcome:
    """Render ``order.pairs`` people, hide them in every way, predict their outlines. Writes ``leakage.svg`` besides."""
    people = [_read(file) for file in resumable(order, "people", render_person)]
    strangers = strange_hair(people, order.seed)
    outlines = np.stack([person.outline for person in people])
    heads = np.stack([shares(np.isin(person.labels, (1, 2)), WANTED).ravel() for person in people])
    results = {
        exposure.name: measure(exposure, people, strangers, outlines, heads, order.seed) for exposure in (*HOLES, *CLOTHED)
    }
    figure = order.out / "leakage.svg"
    figure.write_text(_figure(results))
    numbers = {"people": len(people), "outline": list(leakage.OUTLINE), "shown": results}
    return Outcome(numbers, [_table("hole alone", HOLES, results), _table("hole and cloth", CLOTHED, results)], [figure])


def render_person(path: str, seed: int, number: int) -> Arrays:
    """A person who looks about straight ahead, in the crop that the track stage would choose, from the truth."""
    model = loaded_head_model(path)
    rng = np.random.default_rng([seed, number, 41])
    person = Person.drawn(int(rng.integers(2**31)))
    performer = Performer(model, person.identity, person.appearance)
    background = np.zeros((_CAMERA.height, _CAMERA.width, 3), np.float32)
    pose = rng.normal(0, (0.1, 0.06, 0.04)).astype(np.float32)
    shot = performer.shoot(_CAMERA, Room(), background, np.zeros(len(model.expression_names), np.float32), pose)
    x, y, face = (float(value) for value in head_anchor(shot.landmarks[None].astype(np.float64))[0])
    crop = (x, y + DROP * face, CROP_SCALE * face)
    labels = cv2.warpAffine(shot.labels, opencv_matrix(crop_matrix(crop, SIZE)), (SIZE, SIZE), flags=cv2.INTER_NEAREST)
    shoulders = np.column_stack([to_crop(shot.shoulders, crop, SIZE), np.ones(2)])
    middle = float(to_crop(np.array([[x, y]]), crop, SIZE)[0, 1])
    return {
        "labels": np.asarray(labels, np.uint8),
        "shoulders": shoulders.astype(np.float32),
        "outline": leakage.outline_parameters(labels, middle, SIZE / CROP_SCALE),
        "style": np.asarray(STYLES.index(person.appearance.hair_style)),
    }


def _read(file: Path) -> Silhouette:
    with np.load(file) as arrays:
        return Silhouette(arrays["labels"], arrays["shoulders"], arrays["outline"], STYLES[int(arrays["style"])])


def strange_hair(people: Sequence[Silhouette], seed: int) -> list[Mask]:
    """For each person the blocks of another, long-haired one's hair, mirrored at random: boolean [SIZE, SIZE] each."""
    rng = np.random.default_rng([seed, 43])
    long = [k for k, person in enumerate(people) if person.style == "long"]
    result = []
    for k in range(len(people)):
        others = [other for other in long if other != k]
        if not others:
            result.append(np.zeros((SIZE, SIZE), bool))
            continue
        hair = hair_blocks(people[others[int(rng.integers(len(others)))]])
        result.append(hair[:, ::-1] if rng.uniform() < 0.5 else hair)
    return result


def shares(mask: Mask, side: int) -> npt.NDArray[np.float32]:
    """Share of each cell of a grid that a mask covers: float32 [side, side]."""
    return np.asarray(cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA), np.float32)


def measure(
    exposure: Exposure,
    people: Sequence[Silhouette],
    strangers: Sequence[Mask],
    outlines: npt.NDArray[np.float64],
    heads: npt.NDArray[np.float32],
    seed: int,
) -> dict[str, Any]:
    """What held-out people's outlines give away: R^2 of each parameter and overlap of the head mask, with 95 % intervals.

    Args:
        outlines: [people, 4]; heads: [people, WANTED * WANTED], shares of the head mask.
    """
    holes, clothes = [], []
    for person, hair in zip(people, strangers, strict=True):
        hole = exposure.hole(person.labels != 0)
        holes.append(shares(hole, SEEN).ravel())
        if exposure.cloth is not None:
            clothes.append(shares(exposure.cloth(person, hair), SEEN).ravel())
    views = [np.stack(holes)]
    if clothes:
        views += [np.stack(clothes), np.hstack([views[0], np.stack(clothes)])]
    chosen = np.random.default_rng([seed, 47]).integers(len(people), size=(2000, len(people)))
    result: dict[str, Any] = {"blocks": exposure.blocks}
    for k, name in enumerate(leakage.OUTLINE):
        wanted = outlines[:, k : k + 1]
        found, blind = leakage.predict_held_out(views, wanted)
        missed, unknown = (((wanted - guess) ** 2)[:, 0] for guess in (found, blind))
        drawn = 1 - missed[chosen].sum(1) / np.maximum(unknown[chosen].sum(1), 1e-12)
        share = leakage.explained(wanted, found, blind)
        result[name] = [round(float(value), 4) for value in (share, *np.percentile(drawn, (2.5, 97.5)))]
        result[f"{name} bits"] = round(leakage.bits(share), 3)
    found, blind = leakage.predict_held_out(views, heads)
    for name, guess in (("head IoU", found), ("head IoU without looking", blind)):
        each = leakage.overlaps(guess, heads >= 0.5)
        result[name] = [round(float(value), 4) for value in (each.mean(), *np.percentile(each[chosen].mean(1), (2.5, 97.5)))]
    return result


# ----------------------------------------------------------------------------------------------------- table and figure


def _table(title: str, exposures: Sequence[Exposure], results: Mapping[str, Mapping[str, Any]]) -> ResultTable:
    def cell(value: Sequence[float]) -> str:
        return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"

    blind = results[exposures[0].name]["head IoU without looking"]
    rows = [("nothing (the mean of others)", *("0" for _ in leakage.OUTLINE), cell(blind))]
    for exposure in exposures:
        told = results[exposure.name]
        rows.append((exposure.name, *(cell(told[name]) for name in leakage.OUTLINE), cell(told["head IoU"])))
    columns = ("the networks see", *(f"R^2 of {name}" for name in leakage.OUTLINE), "IoU of the predicted head")
    return ResultTable(title, columns, tuple(rows))


_COLOURS = ("#1f6fb4", "#d1495b", "#2e933c", "#8d6a9f")


def _figure(results: Mapping[str, Mapping[str, Any]]) -> str:
    """R^2 of each outline parameter over the size of the blocks, with intervals, as SVG."""
    shown = [exposure for exposure in HOLES if exposure.blocks or exposure.name == "exact mask"]
    left, top, width, height = 60, 30, 520, 260
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 130} {top + height + 60}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]

    def place(column: int, value: float) -> tuple[float, float]:
        return left + (column + 0.5) * width / len(shown), top + height * (1 - max(0.0, min(1.0, value)))

    for level in (0, 0.25, 0.5, 0.75, 1):
        y = place(0, level)[1]
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>')
    for column, exposure in enumerate(shown):
        name = f"{exposure.blocks}x{exposure.blocks}" if exposure.blocks else "exact"
        parts.append(f'<text x="{place(column, 0)[0]:.1f}" y="{top + height + 18}" text-anchor="middle">{name}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle">mask of the hole</text>')
    parts.append(f'<text x="{left}" y="{top - 12}">share of the variance that is predicted (R²), people held out</text>')
    for k, (name, colour) in enumerate(zip(leakage.OUTLINE, _COLOURS, strict=True)):
        told = [results[exposure.name][name] for exposure in shown]
        points = [place(column, value[0]) for column, value in enumerate(told)]
        shift = 5 * (k - 1.5)
        line = " ".join(f"{x + shift:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for column, (value, (x, y)) in enumerate(zip(told, points, strict=True)):
            low, high = place(column, value[1])[1], place(column, value[2])[1]
            parts.append(f'<line x1="{x + shift:.1f}" x2="{x + shift:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x + shift:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        y = top + 20 * k + 10
        parts.append(f'<rect x="{left + width + 16}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 32}" y="{y}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])
