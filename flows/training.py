"""`headswap train`: finds recipe, samples and the identity network, and runs the training."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from schemas.names import suggestion
from schemas.problems import HeadswapError, ModelError, UsageError
from stages.networks.registry import ModelRegistry
from stages.networks.weights import check_weights
from stages.training.ahead import SamplesAhead
from stages.training.augmentation import FOREIGN_REFERENCES, NO_AUGMENTATION, Augmentation
from stages.training.performer_data import SMALLEST_SIZE, PerformerSamples
from stages.training.recipe import Recipe
from stages.training.recipe_files import chosen_recipe
from stages.training.samples import SampleSource
from stages.training.shards import ShardSamples
from storage.keys import digest_value

Samples = PerformerSamples | ShardSamples
Opener = Callable[[], tuple[Samples, Samples, str]]
"""Opens what to train on and what to validate with, and says what they are in words."""

PERFORMERS = "performers:"
_COUNTS = {"seed": 0, "people": 5, "performances": 6, "held_out": 1, "frames": 48}
"""What ``performers:`` URLs can say, and what holds where they do not."""


def run_training(
    preset: str,
    data: str,
    out: Path,
    registry: ModelRegistry,
    *,
    resume: bool = False,
    recipe_file: Path | None = None,
    start: Path | None = None,
    head_model: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    tell: Callable[[str, int, int, Mapping[str, float]], None] | None = None,
) -> dict[str, Any] | None:
    """Train by a recipe.

    Args:
        preset: sizes of the networks; also names the recipe where none is given.
        data: folder or URL of a prepared data set, or ``performers:seed=1,people=5`` (see ``performer_options``).
        out: folder of the run; rendered clips of performers lie beside it.
        registry: of the models: the head model ``ict`` for performers, the identity network ``arcface`` where it is there.
        resume: go on where a run in ``out`` was stopped.
        recipe_file: another recipe than the preset's own, or the name of one that ships. A run that goes on has its own.
        start: folder of a saved pipeline, for recipes that begin with published weights.
        head_model: packed ICT-FaceKit; default: the registered one.
        device: ``auto`` or ``cpu``. workers: processes that make samples ahead; default: one per usable core where there is a GPU
            that would wait for them, shared among the training processes of the machine, else none.
        storage_options: for the URL's file system.
        tell: told of phase, step, steps and metrics.

    Returns:
        The folder of the finished pipeline, recipe, phases with their steps, and the last validation of each; nothing in
        processes other than the first, where several train.

    Raises:
        UsageError: every problem of the order at once: of the last phase too, which may begin days later. Where the recipe cannot
            be read, what can be known without it.
        HeadswapError: see ``stages.training.run.train``, ``open_samples`` and ``SamplesAhead``.
    """
    out = Path(os.path.abspath(out))  # "." has no name that clips could lie beside; a link's own name is kept
    recipe, problems, remedies = _recipe_of(out, preset, recipe_file, resume)
    problems += _order_problems(recipe, preset, data, out, start, device)
    clips = out.with_name(f"{out.name}-clips") if out.name else out
    if not data.startswith(PERFORMERS):
        for error in _data_problems(recipe, data, storage_options, alone=not problems):
            problems += error.problems if isinstance(error, UsageError) else [error.message]
            remedies.append(error.remedy)
    if problems or recipe is None:
        raise UsageError(problems, " ".join(dict.fromkeys([*filter(None, remedies), "See docs/training.md."])))
    opener = functools.partial(open_samples, data, recipe, registry, clips, head_model, storage_options)
    train_source, held_out, told = opener()

    # Only here: PyTorch takes seconds to load.
    import torch
    from accelerate import PartialState

    from stages.networks.runtime import without_kernels
    from stages.training.identity_network import load_identity_network
    from stages.training.run import Order, measured, train
    from stages.training.terms import Ingredient, of_data

    if device == "auto" and torch.cuda.is_available():
        mine = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # set by torchrun and accelerate launch
        if why := without_kernels(mine):
            raise UsageError([f"{why}."], "Hide it (CUDA_VISIBLE_DEVICES), or train on the CPU with --device cpu.")

    network, entry = registry.path("arcface"), registry.entry("arcface")
    order = Order(
        recipe,
        out,
        train_source,
        held_out,
        told,
        start,
        None if network is None else (load_identity_network(network), registry.digest("arcface")),
        version("headswap"),
        device,
        digest_value([train_source.digest, held_out.digest]),
        Ingredient("the identity network", entry.licence, entry.commercial),
        of_data(train_source.rights) if isinstance(train_source, ShardSamples) else (),
    )
    with contextlib.ExitStack() as stack:
        if workers is None:
            sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun and accelerate launch
            cores = max(1, len(os.sched_getaffinity(0)) // sharing)
            workers = cores if device == "auto" and torch.cuda.is_available() else 0
        if workers:
            order = replace(order, train=stack.enter_context(SamplesAhead(functools.partial(_first, opener), workers)))
        folder = train(order, resume=resume, tell=tell)
    if not PartialState().is_main_process:
        return None
    return {
        "pipeline": str(folder),
        "recipe": recipe.name,
        "phases": {phase.name: phase.steps for phase in recipe.phases},
        "measured": measured(out),
    }


def _recipe_of(out: Path, preset: str, asked: Path | None, resume: bool) -> tuple[Recipe | None, list[str], list[str]]:
    """The recipe to train by; or none, with what is wrong with it and what to do about it."""
    try:
        return (_recorded_recipe(out) if resume and asked is None else None) or chosen_recipe(asked, preset), [], []
    except UsageError as error:
        return None, list(error.problems), [error.remedy]


def _recorded_recipe(out: Path) -> Recipe | None:
    """The recipe that a run goes on by: the one that ships may have become another since it began."""
    from stages.training.run_record import recorded_recipe  # with PyTorch, which takes seconds to load

    return recorded_recipe(out)


def _order_problems(recipe: Recipe | None, preset: str, data: str, out: Path, start: Path | None, device: str) -> list[str]:
    """All that is wrong with an order, but for what its data hold; without a recipe what can be known all the same."""
    problems = [] if recipe is None else _package_problems(recipe, out)
    if recipe is not None and recipe.preset != preset:
        problems.append(f"The recipe {recipe.name} is for the preset {recipe.preset}, not {preset}.")
    if not out.name:
        problems.append(f"--out {out} is the root of a file system: name a folder for the run.")
    if device not in ("auto", "cpu"):
        problems.append(f"There is no device {device!r} for training: choose auto or cpu.")
    elif recipe is not None:
        problems += _precision_problems(recipe, out, device)
    if recipe is None:
        if start is not None and not start.is_dir():
            problems.append(f"There is no folder {start} to start from.")
    elif start is not None and recipe.start == "random":
        problems.append(f"The recipe {recipe.name} begins with random weights; --start {start} would not be used.")
    elif start is not None:
        from stages.training.checks import start_problems  # with PyTorch, which takes seconds to load

        problems += start_problems(recipe, start)
    elif recipe.start == "published":
        problems.append(f"The recipe {recipe.name} begins with published weights: name a saved pipeline with --start DIR.")
    if data.startswith(PERFORMERS):
        chosen, wrong = performer_options(data)
        problems += wrong
        if recipe is None:
            return problems
        if 2 <= chosen["frames"] < recipe.longest_window:
            told = f"{recipe.longest_window} frames, performances have {chosen['frames']}"
            problems.append(f"{data}: the recipe {recipe.name} trains on windows of {told}: give frames={recipe.longest_window}.")
        size = recipe.largest_size
        if size < SMALLEST_SIZE or size % 32:
            told = f"a multiple of 32 pixels from {SMALLEST_SIZE} on, the largest size of the recipe {recipe.name} is {size}"
            problems.append(f"Performers are rendered at {told}.")
    return problems


def _package_problems(recipe: Recipe, out: Path) -> list[str]:
    """What phases need that is no dependency of this project and not installed: else found out when days of training are done.

    Args:
        recipe: of the run. out: its folder; phases that are finished there need nothing any more.
    """
    ahead = [phase for phase in recipe.phases if not (out / "pipelines" / phase.name).is_dir()]
    eight_bit = [phase.name for phase in ahead if phase.optimisation.eight_bit]
    if not eight_bit or importlib.util.find_spec("bitsandbytes") is not None:
        return []
    return [
        f"The recipe asks for eight_bit: true ({', '.join(eight_bit)}), and bitsandbytes is not installed: install it with "
        "`pip install bitsandbytes`, or set eight_bit: false."
    ]


def _precision_problems(recipe: Recipe, out: Path, device: str) -> list[str]:
    """Phases ahead in a precision that the device lacks: accelerate would compute them in another, and say nothing."""
    ahead = [phase for phase in recipe.phases if not (out / "pipelines" / phase.name).is_dir()]
    asked = {phase.name: phase.optimisation.precision for phase in ahead}
    if set(asked.values()) <= {"auto", "float32"}:
        return []
    import torch  # takes seconds to load

    from stages.networks.runtime import choose_precision, gpu_count

    mine = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device == "auto" and gpu_count() else torch.device("cpu")
    )
    problems = []
    for name, precision in asked.items():
        try:
            choose_precision(mine, precision)
        except ModelError as error:
            problems.append(f"The phase {name} of the recipe {recipe.name}: {error.message} {error.remedy}")
    return problems


def _data_problems(
    recipe: Recipe | None, data: str, storage_options: Mapping[str, Any] | None, *, alone: bool
) -> list[HeadswapError]:
    """Why a recipe cannot be trained on a prepared data set: it does not open, or a split has no windows that are long enough.

    Args:
        recipe: None: whether it opens is all that can be known. data, storage_options: see ``run_training``.
        alone: nothing else is wrong with the order, so that what is no mistake in it (the network, damage) is raised as it is.
    """
    try:
        splits = _open_shards(data, recipe, storage_options)
    except HeadswapError as error:
        if alone and not isinstance(error, UsageError):
            raise
        return [error]
    frames = 1 if recipe is None else recipe.longest_window
    return [split.no_window(frames) for split in splits if split.longest < frames]


def _open_shards(
    data: str, recipe: Recipe | None, storage_options: Mapping[str, Any] | None
) -> tuple[ShardSamples, ShardSamples]:
    seed, size = (0, None) if recipe is None else (recipe.seed, recipe.largest_size)
    shards, kept = (
        ShardSamples(data, split, seed=seed, size=size, augmentation=augmentation, storage_options=dict(storage_options or {}))
        for split, augmentation in _shard_splits()
    )
    return shards, kept


def open_samples(
    data: str,
    recipe: Recipe,
    registry: ModelRegistry,
    cache: Path,
    head_model: Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[Samples, Samples, str]:
    """The samples that ``data`` names: to train on (augmented), to validate with (as at work), and what they are in words.

    Args:
        data: see ``run_training``. recipe: whose largest size the samples have. registry: for the head model.
        cache: folder for rendered clips. head_model: instead of the registered one. storage_options: of the file system.

    Raises:
        UsageError, StoreError, ModelError: samples that are not there or cannot be read.
    """
    size = recipe.largest_size
    if not data.startswith(PERFORMERS):
        shards, kept = _open_shards(data, recipe, storage_options)
        told = (
            f"a prepared data set of {shards.frames} frames of {len(shards.people)} people, {kept.frames} frames of"
            f" {len(kept.people)} people held out; crops of {size} pixels; {FOREIGN_REFERENCES:.0%} of the references from"
            " another clip of the person, where there is one; augmented as in the paper"
        )
        return shards, kept, told
    chosen, problems = performer_options(data)
    if problems:
        raise UsageError(problems, "See docs/training.md.")
    file = head_model or registry.require("ict")
    if head_model is not None:
        check_weights(head_model, "npz", registry.entry("ict").arrays)
    performers, performers_held_out = (
        PerformerSamples(
            file,
            cache,
            size=size,
            split=split,
            augmentation=augmentation,
            foreign_references=share,
            true_backgrounds=False,  # said, or the type of ``chosen`` would have to fit it
            **chosen,
        )
        for split, augmentation, share in _performer_splits()
    )
    told = (
        f"{chosen['people']} synthetic performers (seed {chosen['seed']}) rendered at {size} pixels, {chosen['performances']}"
        f" performances of {chosen['frames']} frames each at 25 frames a second, the last {chosen['held_out']} of each held out;"
        " in each performance another room and body, which go round among them;"
        f" {FOREIGN_REFERENCES:.0%} of the references from another performance; augmented as in the paper"
    )
    return performers, performers_held_out, told


def _first(opener: Opener) -> SampleSource:
    return opener()[0]


def _shard_splits() -> tuple[tuple[Literal["train", "validation"], Augmentation], ...]:
    return ("train", Augmentation()), ("validation", NO_AUGMENTATION)


def _performer_splits() -> tuple[tuple[Literal["train", "held_out"], Augmentation, float], ...]:
    return ("train", Augmentation(), FOREIGN_REFERENCES), ("held_out", NO_AUGMENTATION, 0.0)


def performer_options(data: str) -> tuple[dict[str, int], list[str]]:
    """What a URL like ``performers:seed=1,people=5,performances=6,held_out=1,frames=48`` says, and all that is wrong with it."""
    chosen, problems, wrong = dict(_COUNTS), [], set()
    for part in filter(None, data.removeprefix(PERFORMERS).split(",")):
        name, _, value = part.partition("=")
        if name not in _COUNTS:
            problems.append(f"{data}: there is no setting {name!r}; {suggestion(name, _COUNTS)}")
        elif not value.isascii() or not value.isdigit():
            problems.append(f"{data}: {name} must be a whole number, not {value!r}.")
            wrong.add(name)
        else:
            chosen[name] = int(value)
    for name, least in (("people", 1), ("frames", 2)):
        if chosen[name] < least:
            problems.append(f"{data}: {name} must be {least} or more, not {chosen[name]}.")
    held_out, performances = chosen["held_out"], chosen["performances"]
    if not wrong & {"held_out", "performances"} and not 1 <= held_out < performances:
        told = f"{held_out} of {performances} performances are held out"
        problems.append(f"{data}: {told}; at least one must be, and another one be left to train on.")
    return chosen, problems


def print_training(told: Mapping[str, Any], console: Console) -> None:
    """What came out, in words."""
    for phase, metrics in told["measured"].items():
        values = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        console.print(f"{phase}: {told['phases'].get(phase, '?')} steps; held out: {values}")
    console.print(f"The pipeline and its model card are in {told['pipeline']}")


class StepLines:
    """Tells of a training run in lines.

    Args:
        console: to print on. every: seconds between lines at least.
    """

    def __init__(self, console: Console, every: float = 10.0) -> None:
        self._console, self._every, self._last = console, every, -every

    def __call__(self, phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self._last < self._every and step != steps:
            return
        self._last = now
        minutes = metrics.get("seconds_per_step", 0.0) * (steps - step) / 60
        loss = metrics.get("loss", float("nan"))
        self._console.print(f"{phase}: step {step} of {steps}, loss {loss:.4f}, {minutes:.0f} min left")
