"""Checkpoints that are complete or not there: written beside, flushed to the disk, then renamed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.problems import ModelError

STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """All that a phase needs to go on.

    Attributes:
        step: steps of the optimiser that are done.
        weights: what is trained, by name. averages: its running mean; empty without one.
        optimiser: ``state_dict`` of the optimiser. scaler: of the gradient scaler; empty without one.
    """

    step: int
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]


class Checkpoints:
    """The checkpoints of a phase: one folder for each, named by its step.

    Args:
        folder: of the phase. keep: how many of the latest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        return sorted(int(path.name) for path in self._folder.glob("[0-9]*") if path.name.isdigit() and (path / STATE).is_file())

    def path(self, step: int) -> Path:
        return self._folder / f"{step:08d}"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and remove the oldest ones beyond ``keep``."""
        target = self.path(checkpoint.step)
        with appearing(target) as folder:
            save_file(_plain(checkpoint.weights), folder / "weights.safetensors")
            if checkpoint.averages:
                save_file(_plain(checkpoint.averages), folder / "averages.safetensors")
            torch.save({"optimiser": checkpoint.optimiser, "scaler": checkpoint.scaler}, folder / "optimiser.pt")
            (folder / STATE).write_text(json.dumps({"step": checkpoint.step}) + "\n")
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.path(old))
        return target

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            ModelError: ``checkpoint_damaged``, with the checkpoint before it as a remedy.
        """
        folder = self.path(step)
        try:
            averages = folder / "averages.safetensors"
            rest = torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True)
            return Checkpoint(
                step,
                load_file(folder / "weights.safetensors"),
                load_file(averages) if averages.is_file() else {},
                rest["optimiser"],
                rest["scaler"],
            )
        except (OSError, SafetensorError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            before = [other for other in self.steps() if other < step]
            remedy = (
                f"Remove that folder: then the run goes on from {self.path(before[-1])}." if before else "Remove that folder."
            )
            raise ModelError("checkpoint_damaged", f"The checkpoint {folder} cannot be read: {error}.", remedy) from error


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder to write into that takes the place of ``target`` when all is written, and is gone where writing failed."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            flush(path)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        flush(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def flush(path: Path) -> None:
    """Have the disk hold what a file, or the list of a folder, says."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
