"""Weights that runs have saved, to be compared to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file


def weights_of(pipeline: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved pipeline, named by its part."""
    return {
        f"{file.parent.name}.{name}": tensor
        for file in sorted(pipeline.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether both have the same names, and tensors that are equal in every bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
