"""The checkpoints of a phase: all that it needs to go on, to the bit."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.problems import ModelError, StoreError
from stages.durable import appearing, remove_partial

_log = logging.getLogger(__name__)

STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """All that a phase needs to go on.

    Attributes:
        step: steps of the optimiser that are done.
        weights: what is trained, by name. averages: its running mean; empty without one.
        optimiser: ``state_dict`` of the optimiser. scaler: of the gradient scaler; empty without one.
        buffers: what moves in training beside the weights, by name: running statistics of normalisations. None: the checkpoint is
            of an earlier version, which did not keep them.
    """

    step: int
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    buffers: dict[str, Tensor] | None


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

    def remove_partial(self) -> None:
        """Remove what a process that was killed while it saved left: nothing else would, unless it came by the same step."""
        remove_partial(self._folder)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, complete or not at all, and remove the oldest ones beyond ``keep``."""
        target = self.path(checkpoint.step)
        with appearing(target) as folder:
            save_file(_plain(checkpoint.weights), folder / "weights.safetensors")
            if checkpoint.averages:
                save_file(_plain(checkpoint.averages), folder / "averages.safetensors")
            if checkpoint.buffers:
                save_file(_plain(checkpoint.buffers), folder / "buffers.safetensors")
            with (folder / "optimiser.pt").open("wb") as file:  # of a path, PyTorch does not say why it could not be written
                torch.save({"optimiser": checkpoint.optimiser, "scaler": checkpoint.scaler}, file)
            buffers = None if checkpoint.buffers is None else len(checkpoint.buffers)
            (folder / STATE).write_text(json.dumps({"step": checkpoint.step, "buffers": buffers}) + "\n")
        self.leave(self._keep)
        return target

    def leave(self, count: int) -> None:
        """Remove all but the latest ``count``."""
        for old in self.steps()[:-count]:
            shutil.rmtree(self.path(old), ignore_errors=True)  # what stays for a while does not end a run of days

    def look_for_room(self, size: int, saves: int) -> None:
        """See that the disk has room for the checkpoints to come: training may otherwise end after hours, for want of it.

        Args:
            size: bytes of a checkpoint. saves: how many are ahead.

        Raises:
            StoreError: ``disk_full``: there is no room for the next one. Where that fits but not all that are kept, a warning.
        """
        present = len(self.steps())
        # A new one is written before the oldest one goes.
        most = max(1, min(saves, self._keep + 1 - present)) if saves else 0
        folder = next(path for path in (self._folder, *self._folder.parents) if path.is_dir())
        free = shutil.disk_usage(folder).free
        if free >= most * size:
            return
        told = f"The disk of {self._folder} has {free / 2**20:,.0f} MiB left, and a checkpoint takes {size / 2**20:,.0f} MiB"
        if free < size:
            raise StoreError(
                "disk_full",
                f"{told}.",
                "Make room there, then give the same command with --resume, or take another folder (--out).",
                retryable=True,
            )
        _log.warning("%s; up to %d more are kept (`keep` in the recipe): make room there, or training will end.", told, most)

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            ModelError: ``checkpoint_damaged``, with the checkpoint before it as a remedy.
        """
        folder = self.path(step)
        try:
            averages, buffers = folder / "averages.safetensors", folder / "buffers.safetensors"
            kept = json.loads((folder / STATE).read_text()).get("buffers")
            # Mapped, so that processes that share a machine share its pages too: at full size it is 15 GB.
            rest = torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True, mmap=True)
            return Checkpoint(
                step,
                load_file(folder / "weights.safetensors"),
                load_file(averages) if averages.is_file() else {},
                rest["optimiser"],
                rest["scaler"],
                None if kept is None else load_file(buffers) if kept else {},
            )
        except (
            OSError, SafetensorError, RuntimeError, EOFError, KeyError, ValueError, AttributeError, pickle.UnpicklingError,
        ) as error:  # fmt: skip
            before = [other for other in self.steps() if other < step]
            remedy = (
                f"Remove that folder: then the run goes on from {self.path(before[-1])}." if before else "Remove that folder."
            )
            raise ModelError("checkpoint_damaged", f"The checkpoint {folder} cannot be read: {error}.", remedy) from error


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
