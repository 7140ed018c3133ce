"""Where recipes come from: a file of a person's own, or one that ships (``recipes``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from schemas.problems import UsageError
from schemas.written import read_yaml
from stages.training.recipe import Recipe
from stages.training.recipe_problems import problems_of

_SHIPPED = Path(__file__).with_name("recipes")


def builtin_recipe(name: str) -> Recipe:
    """A recipe that ships (``stages/training/recipes``); each preset has one of its name."""
    return read_recipe(_SHIPPED / f"{name}.yaml")


def chosen_recipe(asked: Path | None, preset: str) -> Recipe:
    """The recipe of a file, or one that ships by its name; the preset's own where none is asked for.

    Raises:
        UsageError: with every problem of the file at once; or where there is no such recipe.
    """
    if asked is None:
        return builtin_recipe(preset)
    shipped = sorted(path.stem for path in _SHIPPED.glob("*.yaml"))
    if str(asked) in shipped and not os.path.isfile(asked):
        return builtin_recipe(str(asked))
    if not os.path.exists(asked):  # pathlib's raises for a name that is too long
        raise UsageError([f"There is no recipe {asked}."], f"Name a file, or one of those that ship: {', '.join(shipped)}.")
    return read_recipe(asked)


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file.

    Raises:
        UsageError: with every problem of the file at once.
    """
    try:
        content: Any = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError([f"The recipe {path} cannot be read: {error.strerror}."]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError([f"The recipe {path} is no YAML: {' '.join(str(error).split())}."]) from error
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UsageError([f"{path}: {problem}" for problem in problems_of(content)], "See docs/training.md.") from error
