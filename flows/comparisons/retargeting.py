"""Ways to carry an expression over to another face, against the truth of that face performing it."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from numpy.typing import ArrayLike, NDArray

from flows.comparisons import Order, Outcome, ResultTable, resumable
from flows.comparisons.casts import CASTS, PAIRS, Cast, record
from schemas.comparisons import RETARGETING_COMPARISON, RETARGETING_COUNTS, RETARGETING_ERRORS
from stages.face3d.fitting import FLIP, fit_frames, fit_identity
from stages.face3d.model import FaceModel, builtin_digest
from stages.face3d.resting import RestSolver
from stages.face3d.retargeting import (
    FeatureRatios,
    believed_motion,
    canonical_landmarks,
    closed_lips,
    feature_ratios,
    lips_as_closed_as_seen,
    nearly_neutral_frames,
    neutral_landmarks,
    openings,
    restlessness,
    retarget,
    transferred,
)
from stages.face3d.topology import OUTER_CORNERS, interocular
from stages.fit3dmm import frontal_weights
from stages.metrics.retargeting import (
    bootstrap_interval,
    brought_onto,
    expression_difference,
    invariants,
    lid_opening,
    region_errors,
)
from stages.performers.head import loaded_head_model
from storage.keys import digest_file, digest_value
from storage.tables import ParquetTableWriter

matplotlib.use("Agg")

Floats = NDArray[np.float64]

KINDS: Mapping[str, str] = {
    "detected": "landmarks as MediaPipe detects them on the pictures: what the product meets",
    "exact": "exact landmarks",
    "alike": "exact landmarks, expressions that move everybody by the same centimetres",
}
NEUTRAL_FRAMES = 3
"""How many of a driver's frames, the nearest to rest, make the driver's neutral face; a whole clip has nine."""


class Person:
    """One of a cast as the stages see them, as a driver and as a source; what is fitted is fitted once.

    Args:
        frames: landmarks of the performance, [n, 478, 3]. portrait: of the portrait, [478, 3]. rest: of the face truly at rest,
            [478, 3]; only measures use it. All in pixels.
    """

    def __init__(self, frames: ArrayLike, portrait: ArrayLike, rest: ArrayLike) -> None:
        model = FaceModel.builtin()
        self.frames = np.asarray(frames, np.float64)
        first = fit_frames(self.frames, model, np.zeros(len(model.identity)))
        self.identity = fit_identity(self.frames, model, frontal_weights(first.poses))
        self.fit = fit_frames(self.frames, model, self.identity)
        self.shapes = canonical_landmarks(self.frames, self.fit.poses)
        self.portrait, self.portrait_expression = _still(portrait, model)
        at_rest = np.asarray(rest, np.float64)[None]
        self.rest = canonical_landmarks(at_rest, fit_frames(at_rest, model, self.identity).poses)[0]

    def neutral_driver(self, *, neutralise: bool) -> Floats:
        """The face at rest [478, 3] from the performance: the frames nearest to rest, with Neu-Exp or as they are."""
        restless = restlessness(self.fit.expression, openings(self.frames))
        frames = nearly_neutral_frames(restless, self.fit.poses.rotation, NEUTRAL_FRAMES)
        faces = self.shapes[frames]
        if neutralise:
            faces = neutral_landmarks(faces, self.fit.expression[frames], FaceModel.builtin())
        return np.asarray(np.median(faces, axis=0))

    def neutral_source(self, *, neutralise: bool) -> Floats:
        """The face at rest [478, 3] from the portrait, with Neu-Exp or as it is."""
        return neutral_landmarks(self.portrait, self.portrait_expression, FaceModel.builtin()) if neutralise else self.portrait

    @functools.cached_property
    def resting_driver(self) -> tuple[Floats, Floats]:
        """By the joint fit: the face at rest [478, 3], and the frames' motion as far as it is believed [n, 478, 3]."""
        solver = _solver()
        fitted = solver.rest(self.shapes, frontal_weights(self.fit.poses)).shape
        rest = lips_as_closed_as_seen(fitted, self.shapes)
        explained = solver.model.displacement(solver.expression(self.shapes, rest, self.fit.expression))
        return rest, believed_motion(self.shapes, rest, explained)

    @functools.cached_property
    def resting_source(self) -> Floats:
        """By the joint fit: the face at rest [478, 3]."""
        return closed_lips(_solver().rest(self.portrait[None]).shape)


def _still(landmarks: ArrayLike, model: FaceModel) -> tuple[Floats, Floats]:
    """One face [478, 3] in pixels: in model space, and its weights [E]."""
    alone = np.asarray(landmarks, np.float64)[None]
    fit = fit_frames(alone, model, fit_identity(alone, model))
    return canonical_landmarks(alone, fit.poses)[0], fit.expression[0]


@functools.cache
def _solver() -> RestSolver:
    return RestSolver(FaceModel.builtin())


Method = Callable[[Person, Person], Floats]
"""Driver, source -> the source's face with the driver's expressions, [n, 478, 3] in model space."""


def _sum(*, neutralise: bool, scaled: bool) -> Method:
    """Neutral face plus the driver's displacements, as the paper and its relatives write it."""

    def carry(driver: Person, source: Person) -> Floats:
        from_face, to_face = driver.neutral_driver(neutralise=neutralise), source.neutral_source(neutralise=neutralise)
        return transferred(driver.shapes, from_face, to_face, feature_ratios(to_face, from_face) if scaled else FeatureRatios())

    return carry


def _openings(driver: Person, source: Person) -> Floats:
    """The paper's faces at rest; openings and gaze carried over as such: stage ``retarget`` with ``method = "paper"``."""
    from_face, to_face = driver.neutral_driver(neutralise=True), source.neutral_source(neutralise=True)
    return retarget(driver.shapes, from_face, to_face, feature_ratios(to_face, from_face))


def _joint(driver: Person, source: Person) -> Floats:
    """What stage ``retarget`` does by default."""
    (from_face, believed), to_face = driver.resting_driver, source.resting_source
    return retarget(driver.shapes, from_face, to_face, feature_ratios(to_face, from_face), believed=believed)


def _best(driver: Person, source: Person) -> Floats:
    """The sum with both faces truly at rest, which nobody knows: what is left is the detector's error and the sum's own."""
    return transferred(driver.shapes, driver.rest, source.rest, feature_ratios(source.rest, driver.rest))


METHODS: Mapping[str, Method] = {
    "naive delta": _sum(neutralise=False, scaled=False),
    "Neu-Exp only": _sum(neutralise=True, scaled=False),
    "scale-aware only": _sum(neutralise=False, scaled=True),
    "both (the paper)": _sum(neutralise=True, scaled=True),
    "both, openings carried over": _openings,
    "ours": _joint,
    "(true faces at rest)": _best,
}
OURS, TOLD = "ours", "(true faces at rest)"
"""What stage ``retarget`` does, and what knows more than it can."""

REFERENCE = "both (the paper)"
COLOURS = {"all": "#333333", "eyes": "#1f77b4", "brows": "#2ca02c", "mouth": "#d62728"}
MEASURES_VERSION = 7
"""Goes up when a method or a measure changes, so that old measurements are not taken for new ones."""


def compare(order: Order) -> Outcome:
    """Render casts, retarget every pair in them by every method and kind of landmarks, and measure against the truth.

    Writes, below ``order.out``: the casts' landmarks (``casts.Cast``), ``retargeting.parquet`` (one row per pair, kind and
    method) and ``retargeting.png``.
    """
    files = resumable(order, CASTS, record, -(-order.pairs // PAIRS))
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(files):
        rows += _measured(order, file, number)
    rows = [row for row in rows if row["pair"] < order.pairs]
    writer = ParquetTableWriter(order.out / "retargeting.parquet", RETARGETING_COMPARISON)
    writer.write(
        {column.name: np.array([row.get(column.name, np.nan) for row in rows]) for column in RETARGETING_COMPARISON.columns}
    )
    writer.close()
    measured = {kind: _summary([row for row in rows if row["landmarks"] == kind], order.seed) for kind in KINDS}
    plot = order.out / "retargeting.png"
    draw(measured, plot)
    return Outcome({"methods": list(METHODS), "measured": measured}, tables(measured), [order.out / "retargeting.parquet", plot])


def _measured(order: Order, file: Path, number: int) -> list[dict[str, Any]]:
    """Rows of a cast; from ``retargeting-parts`` where these methods measured it before."""
    recipe = {"version": MEASURES_VERSION, "cast": digest_file(file), "methods": list(METHODS), "model": builtin_digest()}
    path = order.out / "retargeting-parts" / f"{digest_value(recipe)}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, cast = path.with_suffix(".part"), Cast.load(file)
        smiling = loaded_head_model(str(order.head_model)).expression_names.index("mouthSmile_L")
        # A third of the casts is enough to see whether the results hang on how expressions differ between people.
        kinds = [kind for kind in KINDS if kind != "alike" or number % 3 == 0]
        partial.write_text(json.dumps(measure_cast(cast, cast.own_expression[:, smiling].tolist(), kinds)))
        partial.replace(path)
    return [{**row, "pair": number * PAIRS + row["pair"]} for row in json.loads(path.read_text())]


def measure_cast(cast: Cast, smile: Sequence[float], kinds: Sequence[str] = tuple(KINDS)) -> list[dict[str, Any]]:
    """One row per ordered pair of a cast, kind of landmarks and method: columns of ``RETARGETING_COMPARISON``.

    Args:
        smile: of the people's portraits, weights.
    """
    model = FaceModel.builtin()
    sizes = [_sizes(rest) for rest in cast.rest_true]
    rows = []
    for kind in kinds:
        name = {"detected": "seen", "exact": "true"}.get(kind, kind)
        frames, portraits, rests = (getattr(cast, prefix + name) for prefix in ("", "portrait_", "rest_"))
        people = [Person(*landmarks) for landmarks in zip(frames, portraits, rests, strict=True)]
        for number, (one, other) in enumerate(itertools.permutations(range(len(people)), 2)):
            driver, source = people[one], people[other]
            for title, method in METHODS.items():
                found = method(driver, source)
                placed = brought_onto(found, source.frames, model)
                errors = {region: float(error.mean()) for region, error in region_errors(placed, source.frames).items()}
                # The face model was measured on detected landmarks: its weights say little about exact ones.
                if kind == "detected":
                    weights = expression_difference(placed, source.fit.expression, model, source.identity)
                    errors["expression"] = 100 * float(weights.mean())
                kept = invariants(found, source.rest, driver.shapes, driver.rest)
                rows.append(
                    {
                        "pair": number,
                        "landmarks": kind,
                        "method": title,
                        "smile": float(smile[other]),
                        "eye_ratio": sizes[other][0] / sizes[one][0],
                        "mouth_ratio": sizes[other][1] / sizes[one][1],
                        **errors,
                        **{f"{what}_cases": counted.cases for what, counted in kept.items()},
                        **{f"{what}_held": counted.held for what, counted in kept.items()},
                    }
                )
    return rows


def _sizes(rest: ArrayLike) -> tuple[float, float]:
    """Opening of the eyes and width of the mouth of a frontal face at rest in pixels, in inter-ocular distances."""
    points = np.asarray(rest, np.float64) * FLIP
    width = float(np.linalg.norm(points[OUTER_CORNERS[0]] - points[OUTER_CORNERS[1]]))
    unit = float(interocular(points))
    return float(lid_opening(points[None]).mean()) / unit, width / unit


def _summary(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Of one kind of landmarks, by method: mean errors with intervals over casts, what was kept, and paired differences.

    ``less_than_paper`` is what the method has less than the paper's, ``ours_less`` what ours has less than the method.
    Also by how unlike the two faces are: ``unlike`` is the third of the pairs whose eyes or mouths differ most in size.
    """
    pairs = sorted({int(row["pair"]) for row in rows})
    by_method = {name: {int(row["pair"]): row for row in rows if row["method"] == name} for name in METHODS}
    first = next(iter(by_method.values()))
    unlikeness = {pair: _unlikeness(first[pair]) for pair in pairs}
    errors = [error for error in RETARGETING_ERRORS if error in first[pairs[0]]]
    border = float(np.quantile(list(unlikeness.values()), 2 / 3))
    unlike = [pair for pair in pairs if unlikeness[pair] >= border]
    result: dict[str, Any] = {}
    for name, own in by_method.items():
        reference, ours = by_method[REFERENCE], by_method[OURS]
        result[name] = {
            "pairs": len(pairs),
            "errors": {error: _interval(own, None, error, pairs, seed) for error in errors},
            "less_than_paper": {error: _interval(reference, own, error, pairs, seed) for error in errors},
            "ours_less": {error: _interval(own, ours, error, pairs, seed) for error in errors},
            "unlike": {error: _interval(own, None, error, unlike, seed) for error in errors},
            "kept": {
                what: {part: int(sum(own[pair][f"{what}_{part}"] for pair in pairs)) for part in ("held", "cases")}
                for what in RETARGETING_COUNTS
            },
        }
    return result


def _unlikeness(row: Mapping[str, Any]) -> float:
    return max(abs(float(np.log(row["eye_ratio"]))), abs(float(np.log(row["mouth_ratio"]))))


Rows = Mapping[int, Mapping[str, Any]]
"""One method's rows, by pair."""


Interval = Sequence[float | None]
"""Mean, and lower and upper end of its 95 % interval, which one cast alone does not have."""


def _interval(one: Rows, less: Rows | None, error: str, pairs: Sequence[int], seed: int) -> Interval:
    """Of an error, or of what another method has less. Pairs of one cast share people: casts are drawn, not pairs."""
    values = np.array([one[pair][error] - (less[pair][error] if less is not None else 0.0) for pair in pairs])
    groups = np.array([pair // PAIRS for pair in pairs])
    if len(np.unique(groups)) < 2:
        return [round(float(values.mean()), 4), None, None]
    low, high = bootstrap_interval(values, groups, seed=seed)
    return [round(float(values.mean()), 4), round(low, 4), round(high, 4)]


def tables(measured: Mapping[str, Any]) -> list[ResultTable]:
    """Errors, what was kept, and paired differences to the paper's method, for each kind of landmarks; then to ours."""
    found = []
    for kind, methods in measured.items():
        first = next(iter(methods.values()))
        rows = []
        for name, told in methods.items():
            kept = [f"{100 * part['held'] / max(part['cases'], 1):.1f} %" for part in told["kept"].values()]
            unlike = f"{told['unlike']['all'][0]:.2f}"
            rows.append((name, *(_with_interval(value) for value in told["errors"].values()), unlike, *kept))
        columns = ("method", *first["errors"], "unlike faces", "closed eyes", "open eyes", "closed mouth", "open mouth")
        found.append(ResultTable(f"{KINDS[kind]}; {first['pairs']} pairs", columns, tuple(rows)))
        less = tuple(
            (name, *(_with_interval(value) for value in told["less_than_paper"].values()))
            for name, told in methods.items()
            if name != REFERENCE
        )
        found.append(ResultTable(f"less than {REFERENCE}, paired; {kind}", ("method", *first["errors"]), less))
    return [*found, _ours_less(measured["detected"], measured["exact"])]


def _ours_less(detected: Mapping[str, Any], exact: Mapping[str, Any]) -> ResultTable:
    """What ours has less than every other method that knows no more than it does."""
    rows = tuple(
        (name, *(_from_to(value) for value in told["ours_less"].values()), _from_to(exact[name]["ours_less"]["all"]))
        for name, told in detected.items()
        if name not in (OURS, TOLD)
    )
    first, *others = detected[OURS]["ours_less"]
    columns = ("less than", f"detected: {first}", *others, "exact: all")
    return ResultTable("what ours has less than the others, paired, mean and 95 % interval", columns, rows)


def _with_interval(value: Interval) -> str:
    mean, low, high = value
    return f"{mean:.2f}" if low is None or high is None else f"{mean:.2f} ±{(high - low) / 2:.2f}"


def _from_to(value: Interval) -> str:
    mean, low, high = value
    return f"{mean:.2f}" if low is None else f"{mean:.2f} ({low:.2f} to {high:.2f})"


def draw(measured: Mapping[str, Any], file: Path) -> None:
    """Errors of every method with their intervals, by region, for detected and exact landmarks, as a PNG."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10.5, 4.2), sharey=True)
    for axis, kind in zip(axes, ("detected", "exact"), strict=True):
        for position, told in enumerate(measured[kind].values()):
            for offset, (region, colour) in enumerate(COLOURS.items()):
                mean, low, high = told["errors"][region]
                place = position + 0.18 * (offset - 1.5)
                if low is not None:
                    axis.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
                axis.plot([mean], [place], "o", color=colour, markersize=4.5, label=region if position == 0 else None)
        axis.set_title(f"{kind} landmarks", fontsize=10)
        axis.set_xlabel("error, % of the inter-ocular distance", fontsize=9)
        axis.set_xlim(left=0)
        axis.grid(axis="x", linewidth=0.4, alpha=0.6)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(length=0, labelsize=9)
    axes[0].set_yticks(range(len(METHODS)), list(METHODS))
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=8, frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
