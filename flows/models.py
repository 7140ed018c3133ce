"""Adding, pulling and verifying models, with the questions a person has to answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from schemas.names import nearest
from schemas.places import expanded_path
from schemas.problems import HeadswapError, ModelError
from stages.networks.registered import Registration
from stages.networks.registry import ModelRegistry


def describe(registry: ModelRegistry) -> list[dict[str, Any]]:
    """Every model as a plain mapping, for tables and JSON."""
    return [asdict(status) for status in registry.list()]


def add(
    registry: ModelRegistry,
    name: str,
    source: Path,
    *,
    licence: str | None = None,
    commercial: bool | None = None,
    origin: str | None = None,
    allow_pickle: bool = False,
    allow_unknown_digest: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Register a file under a known name, or a folder as a pipeline of the diffusion renderer.

    Args:
        registry: to add to.
        name: of a known or declared model; of a pipeline any.
        source: the file or folder.
        licence, commercial, origin: of a pipeline; default: what its model card says.
        allow_pickle: of a pipeline: take ``.pth`` and ``.bin`` files, weights only.
        allow_unknown_digest: of a file: another version than the one on record.
        tell: is given a line before each step that takes long (a pipeline of gigabytes), and one for every weight that does not
            fit, before the error that sums them up is raised.

    Returns:
        What is registered now, as a plain mapping.

    Raises:
        HeadswapError: what is wrong, and what to do; everything is then as it was.
    """
    source = expanded_path(source)
    known = name in registry.entries and name not in registry.pipelines
    if not known and not os.path.exists(source):
        near = nearest(name, registry.entries)
        raise ModelError(
            "model_missing",
            f"There is no file or folder {source}.",
            "Check the path: the folder of a pipeline, or the file of a model of `headswap models list`"
            + (f" (did you mean {near!r}?)." if near and near != name else "."),
        )
    if known or not (os.path.isdir(source) or name in registry.pipelines):
        return {"name": name, "path": str(registry.add(name, source, allow_unknown_digest=allow_unknown_digest))}
    from stages.networks.importing import Terms, import_pipeline  # these load PyTorch
    from stages.networks.loading import MisfitError

    def make(destination: Path) -> Registration:
        terms = Terms(licence, commercial, origin)
        return import_pipeline(name, source, destination, terms, allow_pickle=allow_pickle, tell=tell)

    try:
        path = registry.add_pipeline(name, make)
    except MisfitError as error:
        for line in error.listing:
            tell(line)
        raise
    found = registry.pipelines[name]
    return {"name": name, "path": str(path), **{key: value for key, value in asdict(found).items() if key != "files"}}


def pull(registry: ModelRegistry, name: str, *, accepted: bool, ask: Callable[[str], bool], tell: Callable[[str], None]) -> None:
    """Show the licence, ask, download.

    Raises:
        HeadswapError: it cannot be pulled, which is told before anything is asked; the licence was not accepted; or the download
            failed.
    """
    entry = registry.entry(name)
    if entry.url:  # without one there is nothing to agree to: the registry refuses, and says how else it is got
        terms = entry.licence if entry.commercial else f"{entry.licence} (commercial use is NOT allowed)"
        tell(f"{name}: {entry.serves}\nfrom {entry.origin}\nlicence: {terms}")
        if not accepted and not ask("Do you accept this licence?"):
            raise HeadswapError("licence_not_accepted", f"The licence of {name} was not accepted.", "Nothing was downloaded.")
    tell(f"{name} is at {registry.pull(name, accept_licence=True)}")


def verify(registry: ModelRegistry, tell: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """Every registered file read again; ``tell`` is given a line before each large one, and one where none is registered."""
    found = [asdict(status) for status in registry.verify(tell) if status.state != "missing"]
    if not found:
        tell(f"No model is registered in {registry.folder}; `headswap models list` says which there are.")
    return found
