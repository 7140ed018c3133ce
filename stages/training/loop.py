"""The loop of a phase: steps of the optimiser, running mean, checkpoints, validation, and a good end when asked to stop."""

from __future__ import annotations

import importlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from schemas.problems import ModelError, UsageError
from stages.durable import write_whole
from stages.training.batches import chance
from stages.training.checkpoints import Checkpoint, Checkpoints
from stages.training.recipe import Keeping, Optimisation

_log = logging.getLogger(__name__)

Tell = Callable[[str, int, int, Mapping[str, float]], None]
"""Told of phase, step, steps and the latest metrics."""


class Task(Protocol):
    """What a phase trains.

    Attributes:
        trained: parameters by name.
    """

    trained: dict[str, nn.Parameter]

    @property
    def module(self) -> nn.Module:
        """Holds all that is trained; called through ``accelerate``."""
        ...

    def losses(self, module: nn.Module, batch: int) -> dict[str, Tensor]:
        """Losses of the batch with this number: ``loss`` is the one to go down, the others are told."""
        ...

    def validate(self, step: int) -> dict[str, float]:
        """Metrics on held-out samples, with the weights as they are; writes pictures."""
        ...


class Metrics:
    """A log of JSON lines.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def cut(self, phase: str, step: int) -> None:
        """Remove what a killed run wrote after the checkpoint at ``step`` of a phase."""
        if not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the last line of a killed run
            if row["phase"] != phase or row["step"] <= step:
                kept.append(line + "\n")
        write_whole(self._path, "".join(kept))

    def validated(self, phase: str, step: int) -> bool:
        """Whether the log tells of a validation after this step."""
        rows = map(json.loads, self._path.read_text().splitlines()) if self._path.is_file() else ()
        return any(
            (row["phase"], row["step"]) == (phase, step) and any(key.startswith("validation_") for key in row) for row in rows
        )

    def write(self, **values: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def learning_rate(options: Optimisation, step: int, steps: int) -> float:
    """Of the step after ``step`` steps: rises over ``warmup``, then stays or falls along half a cosine."""
    rise = min(1.0, (step + 1) / max(options.warmup, 1))
    if options.decay == "constant":
        return options.learning_rate * rise
    along = max(0.0, (step - options.warmup) / max(steps - options.warmup, 1))
    share = options.final_share + (1 - options.final_share) * 0.5 * (1 + math.cos(math.pi * min(along, 1.0)))
    return options.learning_rate * rise * share


def run_phase(
    task: Task,
    *,
    name: str,
    seed: int,
    steps: int,
    optimisation: Optimisation,
    keeping: Keeping,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    metrics: Metrics,
    resume: bool,
    tell: Tell | None = None,
) -> None:
    """Train a task to its last step; its weights are then those of the running mean.

    All chance is a function of seed, phase, batch and process: from a checkpoint training goes on to the bit as if it had never
    been stopped (on the same machine, with the same number of processes). SIGTERM and SIGINT end the step under way, save a
    checkpoint, and then take their usual course. While it trains, weights lie in memory as ``layout`` says.

    Raises:
        ModelError: ``training_diverged`` where the loss is not finite, with the last good checkpoint.
        StoreError: ``disk_full``: there is no room for a checkpoint.
        KeyboardInterrupt: after a signal.
    """
    _lay_out(task.module, layout(task.module, accelerator.device))
    optimiser = _optimiser(task.trained, optimisation)
    averages = _running_mean(task.trained, optimisation)
    module, optimiser = accelerator.prepare(task.module, optimiser)
    if accelerator.is_main_process:
        checkpoints.remove_partial()
    task.module.train()  # which buffers move, and so belong to a checkpoint, depends on it
    done = _restore(task, optimiser, averages, accelerator, checkpoints) if resume else 0
    if accelerator.is_main_process:
        checkpoints.look_for_room(_checkpoint_bytes(task, optimisation), math.ceil((steps - done) / keeping.save_every))
        metrics.cut(name, done)

    def validate_if_due() -> None:
        if accelerator.is_main_process and (done % keeping.validate_every == 0 or done == steps):
            with _averaged(task, averages):
                found = task.validate(done)
            metrics.write(phase=name, step=done, **{f"validation_{key}": round(value, 4) for key, value in found.items()})

    if done and accelerator.is_main_process and not metrics.validated(name, done):
        validate_if_due()  # a kill between a checkpoint and its validation must not leave a hole in the log
    spent, counted, fresh = 0.0, 0, True
    with _stopping() as stop:
        while done < steps:
            started = time.monotonic()
            module.train()
            told = _step(task, module, optimiser, optimisation, accelerator, name, seed, done, steps, checkpoints)
            done += 1
            if averages is not None:
                averages.step(task.trained.values())
            # Steps since the last line, without checkpoints and validations; the first one waits for much that comes only once.
            spent, counted = spent + time.monotonic() - started, counted + 1
            due = done % keeping.log_every == 0 or done == steps
            if due:
                told["seconds_per_step"] = spent / counted
                if accelerator.is_main_process:
                    metrics.write(phase=name, step=done, **{key: round(value, 6) for key, value in told.items()})
                    if tell is not None:
                        tell(name, done, steps, told)
            if due or fresh:
                spent, counted, fresh = 0.0, 0, False
            last, stopped = done == steps, _anyone(stop.is_set(), accelerator)
            if accelerator.is_main_process and (done % keeping.save_every == 0 or last or stopped):
                checkpoints.save(_checkpoint(done, task, optimiser, averages, accelerator))
            if stopped:
                raise KeyboardInterrupt  # for signal handlers that return; others raise what they mean, or end the process
            validate_if_due()
    if averages is not None:
        averages.copy_to(task.trained.values())
    _lay_out(task.module, torch.contiguous_format)


def layout(module: nn.Module, device: torch.device) -> torch.memory_format:
    """How pictures and the weights of convolutions lie in memory while a module is trained.

    On a CPU channels last, which takes a third less time (docs/training.md), but for modules with a GroupNorm: its gradient in
    that layout is computed on a path of PyTorch (2.13) on which training the ``tiny`` preset ends with a segmentation fault.
    """
    normalised = any(isinstance(part, nn.GroupNorm) for part in module.modules())
    return torch.contiguous_format if normalised or device.type != "cpu" else torch.channels_last


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    for parameter in module.parameters():
        if parameter.dim() == 4:  # what the format is defined for
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def _step(
    task: Task,
    module: nn.Module,
    optimiser: Any,
    options: Optimisation,
    accelerator: Accelerator,
    name: str,
    seed: int,
    done: int,
    steps: int,
    checkpoints: Checkpoints,
) -> dict[str, float]:
    rate = learning_rate(options, done, steps)
    for group in optimiser.param_groups:
        group["lr"] = rate
    total: dict[str, float] = {}
    parts: dict[str, list[float]] = {}
    for part in range(options.accumulate):
        batch = done * options.accumulate + part
        # Networks without randomness need none; one that has some must not break the promise of resuming to the bit.
        torch.manual_seed(chance(seed, name, "network", batch, accelerator.process_index).initial_seed())
        with accelerator.accumulate(module):
            losses = task.losses(module, batch)
            if not bool(torch.isfinite(losses["loss"])):
                raise _diverged(name, done, checkpoints)
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(task.trained.values(), options.clip)
                if accelerator.scaler is None and not bool(torch.isfinite(torch.as_tensor(norm))):
                    raise _diverged(name, done, checkpoints)
                total["gradient"] = float(norm)
            optimiser.step()
            optimiser.zero_grad()
        for key, value in losses.items():
            parts.setdefault(key, []).append(float(value.detach()))
    # A loss that not every batch has (none of its rows may see a reference) is the mean of those that have it.
    return {**total, **{key: sum(values) / len(values) for key, values in parts.items()}, "learning_rate": rate}


def _anyone(stopped: bool, accelerator: Accelerator) -> bool:
    """Whether any process was asked to stop: all must end after the same step, or the others wait for its gradients for ever."""
    if accelerator.num_processes == 1:
        return stopped
    return bool(accelerator.reduce(torch.tensor(float(stopped), device=accelerator.device), "sum") > 0)


def _optimiser(trained: Mapping[str, nn.Parameter], options: Optimisation) -> torch.optim.Optimizer:
    more = {}
    if options.eight_bit:
        try:
            # No dependency of this project: it needs a CUDA device.
            kind = importlib.import_module("bitsandbytes").optim.AdamW8bit
        except ImportError as error:
            raise UsageError(
                ["The recipe asks for eight_bit: true, and bitsandbytes is not installed."],
                "Install it with `pip install bitsandbytes`, or set eight_bit: false.",
            ) from error
    else:
        kind = torch.optim.AdamW
        if all(parameter.device.type != "cpu" for parameter in trained.values()):
            more["fused"] = True  # PyTorch's own choice for GPUs holds another copy of all weights while it steps
    optimiser: torch.optim.Optimizer = kind(
        list(trained.values()), lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay, **more
    )
    return optimiser


def _running_mean(trained: Mapping[str, nn.Parameter], options: Optimisation) -> EMAModel | None:
    if options.ema is None:
        return None
    # The warm-up (decay 1 - (1 + step) ** -power) lets the mean forget its random beginning.
    return EMAModel(trained.values(), decay=options.ema, use_ema_warmup=True, power=0.75)


def _checkpoint(step: int, task: Task, optimiser: Any, averages: EMAModel | None, accelerator: Accelerator) -> Checkpoint:
    names = list(task.trained)
    return Checkpoint(
        step,
        {name: parameter.data for name, parameter in task.trained.items()},
        {} if averages is None else dict(zip(names, averages.shadow_params, strict=True)),
        optimiser.state_dict(),
        {} if accelerator.scaler is None else accelerator.scaler.state_dict(),
        moving_buffers(task.module),
    )


def moving_buffers(module: nn.Module) -> dict[str, Tensor]:
    """What training changes besides parameters, by name: buffers that are saved with a network (BatchNorm's running mean,
    variance and count), of all parts that are in training mode."""
    saved = module.state_dict().keys()
    return {
        name: buffer
        for place, part in module.named_modules()
        if part.training
        for name, buffer in part.named_buffers(place, recurse=False)
        if name in saved
    }


def _checkpoint_bytes(task: Task, options: Optimisation) -> int:
    """About as much as a checkpoint takes: weights, their running mean, and two moments of each."""
    weights = sum(parameter.numel() for parameter in task.trained.values())
    return weights * ((4 if options.ema is None else 8) + (2 if options.eight_bit else 8))


def _restore(task: Task, optimiser: Any, averages: EMAModel | None, accelerator: Accelerator, checkpoints: Checkpoints) -> int:
    steps = checkpoints.steps()
    if not steps:
        return 0
    found, buffers = checkpoints.load(steps[-1]), moving_buffers(task.module)
    wrong = found.weights.keys() != task.trained.keys() or bool(found.averages) != (averages is not None)
    if wrong or (found.buffers is not None and found.buffers.keys() != buffers.keys()):
        raise ModelError(
            "checkpoint_damaged",
            f"The checkpoint {checkpoints.path(found.step)} holds other weights than the recipe trains.",
            "Go on with the recipe and the version of headswap that wrote it.",
        )
    with torch.no_grad():
        for name, parameter in task.trained.items():
            parameter.copy_(found.weights[name])
        for name, buffer in (found.buffers or {}).items():
            buffers[name].copy_(buffer)
    if found.buffers is None and buffers and accelerator.is_main_process:
        _log.warning(
            "The checkpoint %s was written by an earlier version, without the running statistics of normalisations: these begin"
            " as they were before the phase, so what comes out is not to the bit what it would have been.",
            checkpoints.path(found.step),
        )
    if averages is not None:
        # Laid out as the weights are: another order of the same numbers could be another order of sums.
        averages.shadow_params = [
            torch.empty_like(parameter.data).copy_(found.averages[name]) for name, parameter in task.trained.items()
        ]
        averages.optimization_step = found.step
    optimiser.load_state_dict(found.optimiser)
    for state in optimiser.state.values():
        for name, value in state.items():
            if torch.is_tensor(value) and value.device.type == "cpu":
                state[name] = value.clone()  # or the file would stay mapped, and on the disk, until the run ends
    if accelerator.scaler is not None and found.scaler:
        accelerator.scaler.load_state_dict(found.scaler)
    return found.step


@contextmanager
def _averaged(task: Task, averages: EMAModel | None) -> Iterator[None]:
    """The running mean in place of the weights."""
    if averages is None:
        yield
        return
    averages.store(task.trained.values())
    averages.copy_to(task.trained.values())
    try:
        yield
    finally:
        averages.restore(task.trained.values())


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; afterwards the signal takes its usual course."""
    stop = threading.Event()
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _diverged(name: str, done: int, checkpoints: Checkpoints) -> ModelError:
    steps = checkpoints.steps()
    good = f"The last good checkpoint is {checkpoints.path(steps[-1])}." if steps else "There is no checkpoint yet."
    return ModelError(
        "training_diverged",
        f"The loss of phase {name} is not finite in step {done + 1}. {good}",
        "Lower its learning_rate or clip in the recipe (--recipe FILE), or look for damaged samples, and go on with --resume; if"
        " it diverges again at once, remove the folder of that checkpoint, so that the one before it is taken.",
    )
