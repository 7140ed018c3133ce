"""What a training run is, as its ``run.json`` says: a run goes on with the same only, but for what may change on the way."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.problems import ModelError, UsageError
from stages.durable import remove_partial, write_whole
from stages.training.checkpoints import Checkpoints
from stages.training.recipe import Recipe
from stages.training.recipe_problems import place

FILE = "run.json"

_log = logging.getLogger(__name__)

_Path = tuple[str | int, ...]
"""A place in JSON: keys, and numbers of lists from 0."""

_CHANGEABLE: tuple[_Path, ...] = (("steps",), *(("optimisation", name) for name in ("learning_rate", "clip", "warmup")))
"""What of a phase may be another when a run goes on: it decides how the next steps are taken, not what a checkpoint means."""

_NAMES = {"data_digest": "the digest of the data", "processes": "the number of processes"}


@dataclass(frozen=True)
class RunRecord:
    """What decides a run.

    Attributes:
        recipe: with settled precisions. data: in words. data_digest: of all that decides the samples; empty where unknown.
        start: the first weights, in words with their digest. identity: digest of the identity network, or None.
        processes: among which every batch is shared out.
    """

    recipe: Recipe
    data: str
    data_digest: str
    start: str
    identity: str | None
    processes: int

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.data,
            "data_digest": self.data_digest or None,
            "start": self.start,
            "identity": self.identity,
            "processes": self.processes,
        }


@dataclass(frozen=True)
class Change:
    """A value of the recipe that became another when a run went on.

    Attributes:
        phase: its name. after_step: how many of its steps had been done. field: of the phase. before, now: its values.
    """

    phase: str
    after_step: int
    field: str
    before: float
    now: float


def begin(out: Path, run: RunRecord, resume: bool) -> None:
    """Write down what a run is, or compare it with what was written down when it began.

    Args:
        out: folder of the run; made if need be. run: what is ordered. resume: whether a run that is there is to go on.

    Raises:
        UsageError: ``out`` holds a run and ``resume`` is not given, another run, or files of something else.
        ModelError: ``run_damaged``.
    """
    file, now = out / FILE, run.told()
    if not file.is_file():
        remove_partial(out, f"{FILE}*")  # a process killed at the very beginning leaves no more than that
        if out.is_dir() and any(out.iterdir()):
            raise UsageError([f"{out} holds files, but no training run."], "Give an empty folder, or a new one.")
        out.mkdir(parents=True, exist_ok=True)
        _write(file, now, [])
        return
    before, earlier = _read(file)
    remove_partial(out)
    problems = [] if resume else [f"{out} holds a training run already."]
    changes: list[Change] = []
    for name, path in _differences(before, now):
        change = _change(out, run.recipe, before, now, path) if name == "recipe" else None
        if isinstance(change, Change):
            changes.append(change)
            continue
        where = place(path, before[name], now[name]) or _NAMES.get(name, name)
        said = f"{where}: the run says {_said(before[name], path)}, the order {_said(now[name], path)}"
        problems.append(f"{said}{f'; {change}' if change else ''}.")
    if problems:
        raise UsageError(
            problems,
            "Go on with --resume and the same recipe, data, first weights, identity network and number of processes, or give"
            " another --out. Of the recipe learning_rate, clip, warmup and steps of phases that are not finished may change.",
        )
    for change in changes:
        _log.warning(
            "The recipe has changed: %s, after step %d: %s is %g instead of %g. It is noted in %s and in the model card.",
            change.phase, change.after_step, change.field, change.now, change.before, FILE,
        )  # fmt: skip
    _write(file, now, [*earlier, *changes])


def recorded_recipe(out: Path) -> Recipe | None:
    """The recipe that the run in a folder goes on by; None where there is no run, or one of another version that cannot be read.

    Raises:
        ModelError: ``run_damaged``.
    """
    if not (out / FILE).is_file():
        return None
    try:
        return Recipe.model_validate(_read(out / FILE)[0]["recipe"])
    except ValidationError:
        return None


def changes_of(out: Path) -> list[Change]:
    """What has changed in a run's recipe since it began, in order.

    Raises:
        ModelError: ``run_damaged``.
    """
    return _read(out / FILE)[1]


def _write(file: Path, told: Mapping[str, Any], changes: Sequence[Change]) -> None:
    write_whole(file, json.dumps({**told, "changes": [asdict(change) for change in changes]}, indent=1) + "\n")


def _read(file: Path) -> tuple[dict[str, Any], list[Change]]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        changes = [Change(**change) for change in content.pop("changes", [])]
        recipe = content["recipe"]
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(
            "run_damaged",
            f"{file}, which says what the training run is, cannot be read: {type(error).__name__}: {error}.",
            "Put it back from a copy, or begin anew in another folder (--out); an empty one is what earlier versions left when"
            " they were killed at the very beginning.",
        ) from error
    with suppress(ValidationError):  # a recipe that this version cannot read differs, and is told so
        # A field that came later stands in no recipe of an earlier version; its default is what held then.
        content["recipe"] = Recipe.model_validate(recipe).model_dump(mode="json")
    return content, changes


def _change(out: Path, recipe: Recipe, before: Mapping[str, Any], now: Mapping[str, Any], path: _Path) -> Change | str | None:
    """A difference as a change that is allowed; else why it is not, where there is more to say than that it is a difference."""
    if path[:1] != ("phases",) or path[2:] not in _CHANGEABLE:
        return None
    phase = recipe.phases[int(path[1])]
    if _value(before["recipe"], path[:2]).get("name") != phase.name:
        return None
    if (out / "pipelines" / phase.name).is_dir():
        return f"the phase {phase.name} is finished"
    saved = Checkpoints(out / "checkpoints" / phase.name, phase.keeping.keep).steps()
    done, field = saved[-1] if saved else 0, str(path[-1])
    if field == "steps" and phase.steps < done:
        return f"{done} steps are done"
    values = [_value(told["recipe"], path) for told in (before, now)]
    return Change(phase.name, done, field, values[0], values[1])


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, _Path]]:
    """Names of what differs, and the place inside it."""
    found: list[tuple[str, _Path]] = []

    def walk(name: str, path: _Path, left: Any, right: Any) -> None:
        if isinstance(left, dict) and isinstance(right, dict):
            for key in sorted(left.keys() | right.keys()):
                walk(name, (*path, key), left.get(key), right.get(key))
        elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
            for number, (one, other) in enumerate(zip(left, right, strict=True)):
                walk(name, (*path, number), one, other)
        elif left != right:
            found.append((name, path))

    # Runs of earlier versions said less. Another version may put what the data are in other words: the digest decides, if known.
    names = [name for name in now if name in before and name != ("data" if before.get("data_digest") else "data_digest")]
    for name in names:
        walk(name, (), before[name], now[name])
    return found


def _value(content: Any, path: _Path) -> Any:
    for part in path:
        content = content[part] if isinstance(part, int) else (content or {}).get(part)
    return content


def _said(content: Any, path: _Path) -> str:
    return json.dumps(_value(content, path))
