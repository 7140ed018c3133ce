"""Rehearsals with the smallest networks, for ``test_rehearsal``: prints what they find, as JSON.

A program of its own: PyTorch knows the pretended device until the process ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.diffusion import SETTINGS
from benchmarks.pretended_gpu import PretendedGpu
from benchmarks.rehearsal import Rehearsed, sampling, training
from schemas.problems import ModelError
from stages.training.identity_network import load_identity_network
from stages.training.loop import _optimiser
from tests.stages.training.made_up_networks import write_identity_network
from tests.stages.training.tiny_recipes import tiny_recipe


def mixed() -> Any:
    with PretendedGpu() as gpu:
        return torch.ones(2) + torch.ones(2, device=gpu.device)


def imprecise() -> Any:
    with PretendedGpu() as gpu:
        half = torch.ones(2, 2, dtype=torch.bfloat16, device=gpu.device)
        return half @ torch.ones(2, 2, device=gpu.device)


def sums() -> dict[str, Any]:
    """Bytes held while a layer is there, has been used, has its gradients, and is gone."""
    with PretendedGpu() as gpu:
        layer = torch.nn.Linear(30, 10)
        gpu.place(layer)
        found: dict[str, Any] = {"weights": gpu.held}
        given = torch.ones(5, 30).to(gpu.device)
        total = layer(given).sum()
        found["used"] = gpu.held
        total.backward()
        found.update(graded=gpu.held, number=float(total.detach()), waits=sum(gpu.waits.values()), peak=gpu.peak)
        del total, layer, given
        return {**found, "gone": gpu.held}


def stepped() -> dict[str, int]:
    """Bytes held by weights, gradients and what the optimiser keeps, and the most while it steps."""
    (options, *_) = (phase.optimisation for phase in tiny_recipe().phases)
    with PretendedGpu() as gpu:
        layer = torch.nn.Linear(100, 100)
        gpu.place(layer)
        optimiser = _optimiser(dict(layer.named_parameters()), options)
        for _ in range(2):
            for parameter in layer.parameters():
                parameter.grad = torch.zeros_like(parameter)
            gpu.begin_peak()
            optimiser.step()
        return {"held": gpu.held, "peak": gpu.peak}


def main(identity: Path) -> None:
    """``identity``: where a made up identity network is written."""
    found: dict[str, Any] = {"sums": sums(), "stepped": stepped()}

    def tell(name: str, call: Callable[..., Rehearsed], *given: Any, **named: Any) -> None:
        try:
            found[name] = asdict(call(*given, **named))
        except (RuntimeError, ModelError) as error:
            found[name] = [type(error).__name__, getattr(error, "code", str(error))]

    tell("mixed", mixed)
    tell("imprecise", imprecise)
    options = replace(SETTINGS, steps=2)
    tell("two steps", sampling, "tiny", 28, options)
    tell("four steps", sampling, "tiny", 28, replace(options, steps=4))
    tell("each window", sampling, "tiny", 28, replace(options, blend="end"))
    for frames in (64, 112):
        tell(f"{frames} frames", sampling, "tiny", frames, options)
    tell("64 frames, each network once", sampling, "tiny", 64, options, once=True)
    for frames in (100, 196):
        tell(f"{frames} frames, many steps", sampling, "demo", frames, replace(SETTINGS, steps=16), once=True)
    for share in (0.75, 0.4):
        tell(f"{share} of the memory", sampling, "tiny", 28, options, memory=int(found["two steps"]["peak"] * share))
    write_identity_network(identity)
    recipe = tiny_recipe()
    for phase in recipe.phases:
        tell(phase.name, training, recipe, phase, load_identity_network(identity) if phase.kind == "diffusion" else None)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
