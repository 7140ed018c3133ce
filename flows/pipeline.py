"""The stages in order, and what follows from what they declare.

This is the only list of stages. A new stage is one file in ``stages/`` and one line here.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable

from stages.contract import Owner, Stage

# Loaded by name, so that planning a cached run does not pay for importing every stage's libraries at once.
STAGES: dict[str, str] = {
    "ingest": "stages.ingest:Ingest",
    "landmarks": "stages.landmarks:Landmarks",
    "track": "stages.track:Track",
    "fit3dmm": "stages.fit3dmm:Fit3dmm",
    "masks": "stages.masks:MaskStage",
    "inpaint": "stages.inpaint:InpaintStage",
    "retarget": "stages.retarget:Retarget",
    "render": "stages.render:Render",
    "encode": "stages.encode:Encode",
    "assemble": "stages.assemble:Assemble",
    "measure": "stages.measure:Measure",
}
FINAL: tuple[str, ...] = ("assemble", "measure")
"""What a finished job consists of; everything else is computed because these need it."""


@functools.cache
def stage(name: str) -> Stage:
    """The stage of that name. Stages have no state, so one instance serves a whole process."""
    module, _, attribute = STAGES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()


@functools.cache
def order(name: str) -> int:
    return list(STAGES).index(name)


@functools.cache
def depends_on(name: str, other: str) -> bool:
    """Whether ``name`` is ``other`` or reads, directly or not, what ``other`` writes."""
    return name == other or any(depends_on(needed.stage, other) for needed in stage(name).inputs)


def upstream(finals: Iterable[str] = FINAL) -> dict[Owner, list[str]]:
    """Stages needed for ``finals``, by whose they are (``source``, ``target``, ``job``), each in pipeline order."""
    found: set[tuple[Owner, str]] = set()

    def visit(name: str, of: Owner) -> None:
        if (of, name) in found:
            return
        found.add((of, name))
        for needed in stage(name).inputs:
            visit(needed.stage, of if needed.of == "clip" else needed.of)

    for final in finals:
        visit(final, "job")
    return {owner: sorted((name for of, name in found if of == owner), key=order) for owner in ("source", "target", "job")}
