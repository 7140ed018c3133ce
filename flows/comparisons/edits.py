"""What an edit of an expression moves, and what it should not, against performers rendered with that expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.comparisons import Arrays, Order, Outcome, ResultTable, resumable
from flows.comparisons.casts import Act, own_expression, studio
from flows.comparisons.retargeting import Person
from schemas.edits import read_edits
from stages.face3d.editing import edit_displacement, edit_expression
from stages.face3d.model import FaceModel
from stages.face3d.retargeting import closed_share, feature_ratios, retarget
from stages.face3d.topology import EYES, LIPS, NOSE_BASE, NOSE_BRIDGE, interocular
from stages.metrics.retargeting import REGIONS, bootstrap_interval
from stages.performers.appearance import Room
from stages.performers.head import HeadModel, loaded_head_model

Floats = NDArray[np.float64]

RECIPE = "edited-v3"
"""Folder of the records; another name when they are made in another way."""

EDITS: Mapping[str, Mapping[str, float]] = {
    "jawOpen +0.3": {"jawOpen": 0.3},
    "mouthSmile +0.5": {"mouthSmile": 0.5},
    "browInnerUp +0.5": {"browInnerUp": 0.5},
    "eyeBlinkLeft +0.5": {"eyeBlinkLeft": 0.5},
}
"""What is asked for: offsets of weights."""

BASES = 3
"""Frames of each person before the edit: at rest, and with expressions of their own."""

PARTS: Mapping[str, NDArray[np.intp]] = {
    "mouth": np.array(sorted(set(LIPS))),
    "chin": np.array([152, 148, 176, 377, 400]),
    "nose": np.array(sorted({*NOSE_BRIDGE, *NOSE_BASE})),
    "left lids": np.array([*EYES[0].upper, *EYES[0].lower]),
    "right lids": np.array([*EYES[1].upper, *EYES[1].lower]),
    "brows": REGIONS["brows"],
}


def record(path: str, seed: int, number: int) -> Arrays:
    """A person with and without each edit: exact and detected landmarks, [edits + 1, frames, 478, 3], the unedited first."""
    model, room_rng = loaded_head_model(path), np.random.default_rng([seed, number, 22])
    room = Room.drawn(int(room_rng.integers(2**31)), plain=True)
    sitter = studio(path).sitter(room_rng, room)
    nowhere = np.zeros(3, np.float32)
    bases = [np.zeros(len(model.expression_names), np.float32)]
    bases += [0.6 * own_expression(model.expression_names, room_rng) for _ in range(BASES - 1)]
    turns = [(room_rng.uniform(-1, 1, 3) * np.radians([15, 8, 5])).astype(np.float32) for _ in bases]
    true, seen = [], []
    for offsets in ({}, *EDITS.values()):
        looks = [
            sitter.shoot(Act(_offset(model, base, offsets), turn, nowhere, nowhere), room_rng)
            for base, turn in zip(bases, turns, strict=True)
        ]
        true.append(np.stack([look.true for look in looks]))
        seen.append(np.stack([look.seen for look in looks]))
    return {"true": np.stack(true), "seen": np.stack(seen)}


def _offset(model: HeadModel, base: NDArray[np.float32], offsets: Mapping[str, float]) -> NDArray[np.float32]:
    weights = base.copy()
    for stem, value in offsets.items():
        names = {stem, f"{stem}_L", f"{stem}_R", stem.replace("Left", "_L")}
        for index, name in enumerate(model.expression_names):
            if name in names:
                weights[index] = np.clip(weights[index] + value, 0, 1)
    return weights


def compare(order: Order) -> Outcome:
    """Edit detected landmarks of ``order.pairs`` people and compare with their renders that have the expression indeed."""
    moved: dict[str, dict[str, list[list[float]]]] = {name: {part: [] for part in PARTS} for name in EDITS}
    for file in resumable(order, RECIPE, record):
        with np.load(file) as arrays:
            measure_person(arrays["true"], arrays["seen"], moved)
    numbers = {name: {part: _told(values, order.seed) for part, values in parts.items()} for name, parts in moved.items()}
    rows = [(name, *(_cell(told) for told in parts.values())) for name, parts in numbers.items()]
    title = f"movement by the edit / true movement / seen on the render, % of the inter-ocular distance; {order.pairs} people"
    return Outcome({"moved": numbers}, [ResultTable(title, ("edit", *PARTS), tuple(rows))])


COLUMNS = ("edited", "true", "seen", "direction")
"""Mean lengths of movements; cosine between the edit's and the true movement, of parts that truly move."""


def measure_person(true: Floats, seen: Floats, moved: dict[str, dict[str, list[list[float]]]]) -> None:
    """Add a person's mean movements, ``COLUMNS`` for each edit and part, to ``moved``.

    Args:
        true, seen: landmarks [edits + 1, frames, 478, 3], pixels, the unedited first.
    """
    model = FaceModel.builtin()
    person = Person(seen[0], seen[0, 0], seen[0, 0])
    rest, believed = person.resting_driver
    ratios = feature_ratios(rest, rest)
    plain = retarget(person.shapes, rest, rest, ratios, believed=believed)
    unit = interocular(np.asarray(true[0], np.float64))[:, None, None] / 100
    fitted = person.fit.expression.copy()
    for side, name in enumerate(("eyeBlink_L", "eyeBlink_R")):
        fitted[:, model.indices(name)[0]] = closed_share(person.shapes, rest)[:, side]
    for position, (name, offsets) in enumerate(EDITS.items()):
        document = read_edits({"curves": {curve: {"offset": value} for curve, value in offsets.items()}})
        edited = edit_expression(fitted, np.arange(len(fitted)), document, model, lambda frame: fitted[frame])
        added = edit_displacement(edited.expression - fitted, model)
        result = retarget(person.shapes + added, rest, rest, ratios, blinks=edited.blinks, believed=believed + added)
        by_edit, by_truth, by_eye = (
            (after - before)[..., :2] / unit
            for after, before in (
                (person.fit.poses.project(result), person.fit.poses.project(plain)),
                (true[position + 1], true[0]),
                (seen[position + 1], seen[0]),
            )
        )
        for part, points in PARTS.items():
            lengths = [float(np.linalg.norm(way[:, points], axis=-1).mean()) for way in (by_edit, by_truth, by_eye)]
            one, other = by_edit[:, points].mean(1).ravel(), by_truth[:, points].mean(1).ravel()
            cosine = float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9))
            moved[name][part].append([*lengths, cosine])


def _told(values: Sequence[Sequence[float]], seed: int) -> dict[str, list[float]]:
    """Mean over people with its 95 % interval, for each of ``COLUMNS``."""
    told = {}
    for column, what in enumerate(COLUMNS):
        own = np.array([row[column] for row in values])
        told[what] = [
            round(number, 3) for number in (float(own.mean()), *bootstrap_interval(own, np.arange(len(own)), seed=seed))
        ]
    return told


def _cell(told: Mapping[str, Any]) -> str:
    return " / ".join(f"{told[what][0]:.1f}" for what in ("edited", "true", "seen"))
