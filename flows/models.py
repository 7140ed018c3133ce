"""Pulling and verifying models, with the questions a person has to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from schemas.problems import HeadswapError
from stages.networks.registry import ModelRegistry


def describe(registry: ModelRegistry) -> list[dict[str, Any]]:
    """Every model as a plain mapping, for tables and JSON."""
    return [asdict(status) for status in registry.list()]


def pull(registry: ModelRegistry, name: str, *, accepted: bool, ask: Callable[[str], bool], tell: Callable[[str], None]) -> None:
    """Show the licence, ask, download.

    Raises:
        HeadswapError: the licence was not accepted, or the download failed.
    """
    entry = registry.entry(name)
    terms = entry.licence if entry.commercial else f"{entry.licence} (commercial use is NOT allowed)"
    tell(f"{name}: {entry.serves}\nfrom {entry.origin}\nlicence: {terms}")
    if not accepted and not ask("Do you accept this licence?"):
        raise HeadswapError("licence_not_accepted", f"The licence of {name} was not accepted.", "Nothing was downloaded.")
    tell(f"{name} is at {registry.pull(name, accept_licence=True)}")


def verify(registry: ModelRegistry) -> list[dict[str, Any]]:
    """Every registered file read again."""
    return [asdict(status) for status in registry.verify() if status.state != "missing"]
