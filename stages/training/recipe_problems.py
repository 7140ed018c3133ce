"""What is wrong with a recipe, in plain words, each with its place and the name that was probably meant."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from schemas.names import nearest, suggestion
from stages.training.recipe import NAME, AutoencoderPhase, DiffusionPhase, Recipe


def place(path: Sequence[str | int], *recipes: Any) -> str:
    """Where something stands in a recipe, in words: ``phases.motion.batch``.

    Args:
        path: keys, and numbers from 0. recipes: what was read of one, or of several that are compared.

    Returns:
        Phases by their name where they have one of their own, the same in all recipes; else, as all in lists, counted from 1.
    """
    parts = [f"{part + 1}" if isinstance(part, int) else part for part in path]
    if len(path) > 1 and path[0] == "phases" and isinstance(path[1], int):
        names = {_phase_name(recipe, path[1]) for recipe in recipes}
        parts[1] = (names.pop() if len(names) == 1 else None) or parts[1]
    return ".".join(parts)


def _phase_name(recipe: Any, number: int) -> str | None:
    phases = recipe.get("phases") if isinstance(recipe, Mapping) else None
    if not isinstance(phases, Sequence):
        return None
    names = [phase.get("name") if isinstance(phase, Mapping) else None for phase in phases]
    name = names[number] if number < len(names) else None
    usable = isinstance(name, str) and re.fullmatch(NAME, name) and not name.isdigit() and names.count(name) == 1
    return name if usable else None


_KINDS: dict[str, type[BaseModel]] = {"autoencoder": AutoencoderPhase, "diffusion": DiffusionPhase}
_UNKNOWN, _NO_KIND, _OTHER_KIND = "extra_forbidden", "union_tag_not_found", "union_tag_invalid"


class _Guess(NamedTuple):
    """What was probably meant: in ``holder`` another name than ``wrong``, or another ``kind`` where ``wrong`` is None."""

    holder: dict[Any, Any]
    wrong: str | None
    right: str
    told: str

    def follow(self) -> None:
        if self.wrong is None:
            self.holder["kind"] = self.right
        elif self.wrong in self.holder and self.right not in self.holder:  # an anchor of YAML may have been mended elsewhere
            self.holder[self.right] = self.holder.pop(self.wrong)


def problems_of(content: Any) -> list[str]:
    """All that is wrong with a recipe. What is misspelt is read as what was meant, so that nothing else follows from it."""
    found: list[str] = []
    meant = copy.deepcopy(content)
    while True:
        try:
            Recipe.model_validate(meant)
        except ValidationError as error:
            items: list[Any] = list(error.errors())
        else:
            return list(dict.fromkeys(found))
        guesses = [guess for item in items if (guess := _guess(item, meant)) is not None]
        if not guesses:
            return list(dict.fromkeys([*found, *(told for item in items if (told := _told(item, meant)))]))
        found += [guess.told for guess in guesses]
        for guess in guesses:
            guess.follow()


def _guess(item: Any, content: Any) -> _Guess | None:
    """What was meant by a name that there is not; None where nothing is near, or something else is wrong."""
    path, wrong = _path(item), None
    if item["type"] == _UNKNOWN:
        *path, wrong = path
        holder, known = _at(content, path), _fields(item)
    elif item["type"] == _NO_KIND:
        holder, known = _at(content, path), ["kind"]
        fields = {name for kind in _KINDS.values() for name in kind.model_fields}
        wrong = next((key for key in holder if isinstance(key, str) and key not in fields and nearest(key, known)), None)
    elif item["type"] == _OTHER_KIND:
        holder = _at(content, path)
        right = nearest(str(holder["kind"]), _KINDS)
        return None if right is None else _Guess(holder, None, right, _told(item, content))
    if wrong is None:
        return None
    right = nearest(str(wrong), (name for name in known if name not in holder))
    told = f"{place([*path, wrong], content)}: there is no such field; did you mean {right!r}?"
    return None if right is None else _Guess(holder, str(wrong), right, told)


def _told(item: Any, content: Any) -> str:
    """A complaint of pydantic in plain words; empty where it only follows from another one."""
    path, kind, limits, value = _path(item), item["type"], item.get("ctx") or {}, item["input"]
    if kind == "too_short" and isinstance(value, Sequence) and len(value) >= limits["min_length"]:
        return ""  # it counts the items that are in order
    if kind == "value_error":
        told = item["msg"].removeprefix("Value error, ")
    elif kind in (_UNKNOWN, "invalid_key"):
        *path, wrong = path
        path, told = [*path, str(wrong)], f"there is no such field; {suggestion(str(wrong), _fields(item))}"
    elif kind == _NO_KIND:
        path, told = [*path, "kind"], f"must be given: {' or '.join(_KINDS)}"
    elif kind == _OTHER_KIND:
        path, told = [*path, "kind"], f"{_shown(value['kind'])} is not permitted; {suggestion(str(value['kind']), _KINDS)}"
    elif kind == "literal_error":
        permitted = re.findall("'([^']*)'", limits["expected"])
        told = f"{_shown(value)} is not permitted; {suggestion(str(value), permitted)}"
    elif kind == "missing":
        told = "must be given"
    elif wanted := _wanted(kind, limits):
        told = f"must be {wanted}, not {_shown(value)}"
    else:
        told = item["msg"]
    where = f"{place(path, content)}: " if path else ""
    return f"{where}{told}{'' if told.endswith(('?', '.')) else '.'}"


def _wanted(kind: str, limits: Mapping[str, Any]) -> str:
    """What pydantic asked for, to stand after "must be"; empty where it asked for something that no field asks for."""
    bounds = {
        "greater_than": "greater than {gt:g}",
        "greater_than_equal": "{ge:g} or more",
        "less_than": "less than {lt:g}",
        "less_than_equal": "{le:g} or less",
        "multiple_of": "a multiple of {multiple_of:g}",
        "too_short": "a list of {min_length} or more",
        "too_long": "a list of {max_length} or fewer",
        "string_pattern_mismatch": "small letters, digits and -",
        "tuple_type": "a list",
    }
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "model": "names and values"}
    return bounds.get(kind, "").format(**limits) or kinds.get(kind.partition("_")[0], "")


def _shown(value: Any) -> str:
    """What stands in a recipe, in a word or two."""
    if isinstance(value, Mapping):
        return "names and values"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _path(item: Any) -> list[str | int]:
    """Where a complaint is about, without the kind that pydantic puts after the number of a phase."""
    path = list(item["loc"])
    return [*path[:2], *path[3:]] if path[:1] == ["phases"] and len(path) > 2 and path[2] in _KINDS else path


def _at(content: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        content = content[part]
    return content


def _fields(item: Any) -> list[str]:
    """Names of the fields that may stand where a complaint is about a name."""
    found: type[BaseModel] = Recipe
    for part in item["loc"][:-1]:
        if part in _KINDS:
            found = _KINDS[part]
        elif part in found.model_fields:
            inner = found.model_fields[part].annotation
            found = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else found
    return list(found.model_fields)
