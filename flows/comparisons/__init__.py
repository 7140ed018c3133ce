"""Comparisons against the truth of performers: ``headswap performers compare``.

Each is a module of this package with a function ``compare(order) -> Outcome`` and one line in ``COMPARISONS``. What is slow
(renders, detections) is done one number at a time by ``resumable`` and kept in the order's folder, so that a stopped comparison
goes on and one with other methods needs no render.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from flows.renders import take_folder
from schemas.problems import UsageError
from stages.processes import process_pool

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """A module of this package, what it compares, and on how many pairs of people (or clips) when nobody says.

    ``fewest``: with which there is an interval.
    """

    module: str
    what: str
    pairs: int
    fewest: int = 2


# Pairs of one cast share people and say nothing of how casts differ: six pairs are one (``casts.PAIRS``).
COMPARISONS: Mapping[str, Comparison] = {
    "retargeting": Comparison("flows.comparisons.retargeting", "ways to carry an expression over to another face", 216, fewest=7),
    "edits": Comparison("flows.comparisons.edits", "what an edit of an expression moves, and what it should not", 100),
    "masks": Comparison("flows.comparisons.masks", "label maps and background plates with the truth", 24),
    "leakage": Comparison("flows.comparisons.leakage", "how much of a head's shape the condition image tells", 200),
}


@dataclass(frozen=True)
class Order:
    """What to compare on.

    Attributes:
        head_model: packed ICT-FaceKit. out: folder for everything. pairs: of people (or clips: what the comparison counts).
        seed: of everything. workers: processes. tell: called with the number done and all.
    """

    head_model: Path
    out: Path
    pairs: int
    seed: int
    workers: int = 1
    tell: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class ResultTable:
    """A table as it is shown: numbers already rounded, intervals written out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def show(self, console: Console) -> None:
        """On a terminal."""
        table = Table(*self.columns, title=self.title, title_justify="left", box=None)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


@dataclass(frozen=True)
class Outcome:
    """What a comparison found: ``numbers`` as JSON, ``tables`` to read, ``files`` written besides."""

    numbers: Mapping[str, Any]
    tables: Sequence[ResultTable]
    files: Sequence[Path] = field(default=())


def comparison(name: str) -> Comparison:
    """The comparison of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in COMPARISONS:
        raise UsageError([f"There is no comparison {name!r}."], f"Known: {', '.join(COMPARISONS)}.")
    return COMPARISONS[name]


def run_comparison(name: str, order: Order) -> tuple[dict[str, Any], Outcome]:
    """Run a comparison and write ``<name>.json`` and ``<name>.md`` into the order's folder.

    Returns:
        The JSON document and what it was made from.

    Raises:
        UsageError: no such comparison, nothing to compare, or a folder that cannot be written or holds what was made with another
            head model.
    """
    found = comparison(name)
    if order.pairs < found.fewest:
        raise UsageError([f"{order.pairs} pairs are too few for an interval."], f"Give at least --pairs {found.fewest}.")
    take_folder(order.out, order.head_model)
    outcome: Outcome = importlib.import_module(found.module).compare(order)
    document = {"comparison": name, "pairs": order.pairs, "seed": order.seed, **outcome.numbers}
    as_json, as_text = (order.out / f"{name}.{kind}" for kind in ("json", "md"))
    as_json.write_text(json.dumps(document, indent=1) + "\n")
    as_text.write_text("\n".join(table.markdown() for table in outcome.tables))
    return {**document, "files": [str(file) for file in (as_json, as_text, *outcome.files)]}, outcome


def resumable(order: Order, folder: str, make: Callable[[str, int, int], Arrays], count: int | None = None) -> list[Path]:
    """Files of arrays, one for each number; those that are there are not made again.

    Args:
        count: of numbers; by default the order's pairs.
        folder: below the order's, named so that other recipes have other folders.
        make: a function of a module (processes find it by name): head model's path, seed, number -> arrays.
    """
    place = order.out / folder / f"seed{order.seed}"
    place.mkdir(parents=True, exist_ok=True)
    files = [place / f"{number:05d}.npz" for number in range(order.pairs if count is None else count)]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    work = functools.partial(_make, make, str(order.head_model), str(place), order.seed)
    if missing:
        # One worker is a process as well: with the threads of this one, sums would have other last bits.
        with process_pool(min(order.workers, len(missing))) as pool:
            for done, _ in enumerate(pool.each(work, missing), len(files) - len(missing) + 1):
                if order.tell is not None:
                    order.tell(done, len(files))
    return files


def _make(make: Callable[[str, int, int], Arrays], path: str, place: str, seed: int, number: int) -> None:
    arrays = make(path, seed, number)
    descriptor, temporary = tempfile.mkstemp(dir=place, suffix=".part")
    with os.fdopen(descriptor, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, Path(place) / f"{number:05d}.npz")
