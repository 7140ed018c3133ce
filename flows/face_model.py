"""Measures the built-in face model again: renders people, looks at them with MediaPipe, regresses; resumable, in processes."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from flows.renders import take_folder
from schemas.problems import UsageError
from stages.detectors import FaceMesh, Window
from stages.face3d.measuring import HELD_OUT, WATCHED, Samples, compare, regress
from stages.face3d.model import FaceModel
from stages.performers.head import loaded_head_model
from stages.performers.sampling import IDENTITIES, RENDERS_PER_PERSON, Sampler
from stages.processes import process_pool

PEOPLE_PER_SHARD = 40
LARGEST_FILE = 1_000_000
SAMPLES_VERSION = 4
"""Goes up when the renders change, so that old shards are not mixed with new ones."""

JUDGED_PEOPLE = 240
"""Of those held out: more of them would hardly change the errors, and cost minutes."""

ERRORS = {
    "known_expression": "known expression, %",
    "fitted": "fitted, %",
    "pose_degrees": "rotation, degrees",
    "pose_degrees_same_axes": "without the axes' constant offset",
}
"""What is printed of a model's errors (``measuring.compare``), and what it is called there."""

Floats = npt.NDArray[np.floating]


def build_face_model(
    head_model: Path,
    out: Path,
    *,
    renders: int,
    seed: int,
    workers: int,
    parts: Path | None = None,
    against: Path | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a face model and write it.

    Args:
        head_model: packed ICT-FaceKit. out: the model's file. renders: pictures, rounded up to whole shards of 200.
        parts: folder of the shards, kept so that a second run goes on; beside ``out`` by default.
        against: a model's file to compare with; the built-in one by default.
        tell: called with the shards done and all of them.

    Returns:
        What was measured: numbers of renders, errors on the first ``JUDGED_PEOPLE`` of the held-out people of the new and of the
        other model (``measuring.compare``).

    Raises:
        UsageError: too few renders, or a folder of shards that cannot be written or holds those of another head model.
    """
    if renders < 2_000:
        raise UsageError(
            [f"{renders} renders are too few to measure 55 expressions and 40 identities."], "Give at least --renders 2000."
        )
    people = -(-renders // RENDERS_PER_PERSON)
    shards = -(-people // PEOPLE_PER_SHARD)
    folder = (parts or out.with_name(out.name + ".parts")) / f"v{SAMPLES_VERSION}-seed{seed}"
    take_folder(folder, head_model, "--parts")
    missing = [index for index in range(shards) if not _shard(folder, index).is_file()]
    work = functools.partial(_sample_shard, str(head_model), str(folder), seed)
    done = shards - len(missing)
    if missing:
        with process_pool(min(workers, len(missing))) as pool:
            for _ in pool.each(work, missing):
                done += 1
                if tell is not None:
                    tell(done, shards)
    names = loaded_head_model(str(head_model)).expression_names
    samples = load_samples([_shard(folder, index) for index in range(shards)], names)
    learned, held_out = samples.split(HELD_OUT)
    model = regress(learned)
    out.parent.mkdir(parents=True, exist_ok=True)
    model.save(out)
    # Judged as it ships: in half precision.
    other = ("built in", FaceModel.builtin()) if against is None else (against.name, FaceModel.load(against))
    judged = held_out[np.isin(held_out.person, np.unique(held_out.person)[:JUDGED_PEOPLE])]
    report = compare(judged, {"new": FaceModel.load(out), other[0]: other[1]})
    if out.stat().st_size > LARGEST_FILE:
        raise UsageError([f"{out} has {out.stat().st_size} bytes, more than {LARGEST_FILE}."], "Report this as a bug.")
    return {
        "renders": shards * PEOPLE_PER_SHARD * RENDERS_PER_PERSON,
        "faces_found": len(samples),
        "learned_on": len(learned),
        "held_out": len(held_out),
        "judged_on": len(judged),
        "judged_people": len(np.unique(judged.person)),
        "seed": seed,
        "bytes": out.stat().st_size,
        "models": report,
    }


def print_report(told: dict[str, Any], console: Console) -> None:
    """The table of errors on a terminal."""
    console.print(
        f"{told['renders']} renders, a face in {told['faces_found']}; learned on {told['learned_on']}, "
        f"judged on {told['judged_on']} of {told['judged_people']} people, of {told['held_out']} held out; {told['bytes']} bytes"
    )
    table = Table("model", *ERRORS.values(), *WATCHED, box=None)
    for name, errors in told["models"].items():
        correlations = [f"{errors['correlation'][stem]:.2f}" for stem in WATCHED]
        table.add_row(name, *(str(errors[error]) for error in ERRORS), *correlations)
    console.print(table)


def load_samples(shards: list[Path], names: tuple[str, ...]) -> Samples:
    """Shards on disk as one set; pictures without a face are left out."""
    arrays: dict[str, list[npt.NDArray[Any]]] = {}
    for path in shards:
        with np.load(path) as shard:
            for name in shard.files:
                arrays.setdefault(name, []).append(shard[name])
    joined = {name: np.concatenate(parts) for name, parts in arrays.items()}
    found = np.isfinite(joined["landmarks"]).all((1, 2))
    return Samples(names=names, **{name: values[found].astype(values.dtype) for name, values in joined.items()})


def _shard(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.npz"


@functools.cache
def _sampler(path: str, seed: int) -> Sampler:
    mesh = FaceMesh()

    def detect(picture: npt.NDArray[np.uint8], guess: Floats) -> tuple[Floats, float]:
        return mesh.landmarks(picture, Window.around(guess))

    return Sampler(loaded_head_model(path), detect, seed)


def _sample_shard(path: str, folder: str, seed: int, index: int) -> int:
    sampler = _sampler(path, seed)
    samples = [
        sample for number in range(index * PEOPLE_PER_SHARD, (index + 1) * PEOPLE_PER_SHARD) for sample in sampler.person(number)
    ]
    assert all(len(sample.identity) == IDENTITIES for sample in samples)
    columns = {
        "person": np.array([sample.person for sample in samples], np.int32),
        "identity": np.stack([sample.identity for sample in samples]),
        "expression": np.stack([sample.expression for sample in samples]),
        "rotation": np.stack([sample.rotation for sample in samples]),
        "truth": np.stack([sample.truth for sample in samples]),
        "landmarks": np.stack([sample.landmarks for sample in samples]),
    }
    target = _shard(Path(folder), index)
    descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
    with os.fdopen(descriptor, "wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]
    os.replace(temporary, target)
    return index
