"""A whole training run: the phases of a recipe, one after the other, to a pipeline with a model card; resumable at any moment."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from schemas.problems import StoreError, UsageError
from stages.durable import appearing
from stages.networks.loading import load_pipeline
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.presets import PRESETS, build
from stages.networks.registered import pipeline_digest, read_sampling, write_sampling
from stages.networks.runtime import computes_bfloat16, exact_float32
from stages.networks.sampling import SamplingOptions
from stages.training.autoencoder import AutoencoderTask, measured_scaling
from stages.training.batches import resized
from stages.training.checkpoints import Checkpoints
from stages.training.checks import start_problems
from stages.training.diffusion import DiffusionTask
from stages.training.identity_network import OnnxNetwork
from stages.training.loop import Metrics, Task, Tell, run_phase
from stages.training.memory import hold_memory
from stages.training.model_card import Provenance, model_card, untrained_size
from stages.training.recipe import AutoencoderPhase, DiffusionPhase, Phase, Recipe, settled
from stages.training.run_record import RunRecord, begin, changes_of
from stages.training.samples import SampleSource, TrainingSample
from stages.training.terms import Ingredient, of_pipeline
from stages.training.validation import validate_autoencoder, validate_diffusion

_log = logging.getLogger(__name__)

_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PATIENCE = timedelta(hours=1)
_MEASURED_SAMPLES = 64
"""Training samples from which the autoencoder's scaling factor is measured."""


@dataclass(frozen=True)
class Order:
    """A training run to do.

    Attributes:
        recipe: what to do. out: folder of the run.
        train, held_out: samples to train on, and to validate with.
        data: what the samples are, in words, for the model card.
        start: folder of a saved pipeline, for recipes that begin with published weights.
        identity: network of the identity term with its digest, or None.
        version: of headswap.
        device: ``auto``, or ``cpu``.
        data_digest: of all that decides the samples; empty where it is not known, and ``data`` has to do.
        identity_terms: under which the identity network may be used.
        data_terms: under which the data may be used, where they restrict what is made of them.
    """

    recipe: Recipe
    out: Path
    train: SampleSource
    held_out: SampleSource
    data: str
    start: Path | None = None
    identity: tuple[OnnxNetwork, str] | None = None
    version: str = "0"
    device: str = "auto"
    data_digest: str = ""
    identity_terms: Ingredient | None = None
    data_terms: Sequence[Ingredient] = ()


def train(order: Order, *, resume: bool = False, tell: Tell | None = None) -> Path:
    """Train all phases of a recipe.

    Writes below ``out``: ``run.json``; ``metrics.jsonl``; ``checkpoints/<phase>/<step>/``; ``validation/<phase>-<step>.png``;
    ``pipelines/<phase>/``, the pipeline after each phase; and at the end ``pipeline/`` with its model card.

    Args:
        order: what to do.
        resume: go on where a run in ``out`` was stopped; begin where there is none.
        tell: told of progress.

    Returns:
        The folder of the finished pipeline.

    Raises:
        UsageError: ``out`` holds a run and ``resume`` is not given, or one of another recipe (but for what may change:
            ``stages.training.run_record``), other data, other first weights, another identity network or number of processes;
            a pipeline to start from that the recipe does not fit.
        ModelError: ``training_diverged``, ``checkpoint_damaged``, ``run_damaged``, and those of ``load_pipeline`` and
            ``read_sampling``.
        StoreError: ``disk_full``.
    """
    with _telling_of_a_full_disk(order.out):
        return _train(order, resume, tell)


@contextmanager
def _telling_of_a_full_disk(out: Path) -> Iterator[None]:
    """Say so in words, wherever in a run it is found: in checkpoints, pictures, the log, clips of performers."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = _no_space(error)
        if full is None:
            raise
        file = (full.filename2 or full.filename) if isinstance(full, OSError) else None
        raise StoreError(
            "disk_full",
            f"No space is left on the disk of {file or out}.",
            "Make room there; the same command with --resume goes on from the last checkpoint.",
            retryable=True,
        ) from error


def _no_space(error: BaseException | None) -> BaseException | None:
    """The error of a full disk that an error is, or was raised for: PyTorch hides it behind one of its own."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        if isinstance(error, SafetensorError) and any(f"os error {number})" in str(error) for number in _FULL):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def _train(order: Order, resume: bool, tell: Tell | None) -> Path:
    exact_float32()
    folder, source = _start(order)
    # Now: a card or a file that cannot be read must not be found when all is trained.
    ingredients, inherited = _ingredients(order, folder), {} if folder is None else read_sampling(folder)
    # The others wait in their next exchange while the first one saves 29 GB or validates; PyTorch gives up after ten minutes.
    processes = PartialState(cpu=order.device == "cpu", timeout=_PATIENCE)
    if processes.device.type == "cpu":
        hold_memory()
    fast = computes_bfloat16(processes.device)
    order = replace(order, recipe=settled(order.recipe, bfloat16=fast))
    recipe, out = order.recipe, order.out
    if processes.is_main_process:
        told = RunRecord(
            recipe,
            order.data,
            order.data_digest,
            source,
            None if order.identity is None else order.identity[1],
            processes.num_processes,
        )
        begin(out, told, resume)
    processes.wait_for_everyone()
    metrics = Metrics(out / "metrics.jsonl")
    without = order.identity is None and processes.is_main_process
    if without and any(isinstance(phase, DiffusionPhase) and phase.identity for phase in recipe.phases):
        _log.warning("No identity network is registered (arcface): the identity term of L_id is off.")
    slow = [phase.name for phase in recipe.phases if phase.optimisation.precision == "bfloat16" and not fast]
    if slow and processes.is_main_process:
        _log.warning(
            "This machine only emulates bfloat16, which takes longer than float32 (precision: auto in the recipe): %s.",
            ", ".join(slow),
        )
    if processes.is_main_process and (size := untrained_size(recipe)):
        _log.warning("%s Give a phase this size, or expect worse pictures than those of the validations.", size)
    for phase in recipe.phases:
        finished = out / "pipelines" / phase.name
        if not finished.is_dir():
            pipeline = _load(folder, recipe)
            _train_phase(order, phase, pipeline, metrics, resume, tell)
            if processes.is_main_process:
                with appearing(finished) as partial, _without_bars():
                    pipeline.to(torch.device("cpu"))
                    pipeline.save_pretrained(partial)
            processes.wait_for_everyone()
        if processes.is_main_process:
            _checkpoints(out, phase).leave(1)  # nothing reads them any more: the last one has the weights without their mean
        folder = finished
    final = out / "pipeline"
    if not final.is_dir() and processes.is_main_process:
        _finish(order, folder, source, ingredients, {**inherited, **recipe.sampling}, final)
    processes.wait_for_everyone()  # so that it is there when any of them says so
    return final


def measured(out: Path) -> dict[str, dict[str, float]]:
    """The last validation of each phase of a run: metrics by phase."""
    found: dict[str, dict[str, float]] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        values = {key.removeprefix("validation_"): value for key, value in row.items() if key.startswith("validation_")}
        if values:
            found[row["phase"]] = values
    return found


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML, everything said."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _start(order: Order) -> tuple[Path | None, str]:
    if order.recipe.start == "random":
        return None, "random"
    if order.start is None:
        raise UsageError(
            [f"The recipe {order.recipe.name} begins with published weights."],
            "Name the folder of a saved pipeline: --start DIR (see docs/training.md).",
        )
    if problems := start_problems(order.recipe, order.start):
        raise UsageError(problems, "See docs/training.md.")
    return order.start, f"the pipeline {order.start.name}, digest {pipeline_digest(order.start)}"


def _ingredients(order: Order, start: Path | None) -> list[Ingredient]:
    """What others have a say in: the pipeline it began with, the identity network where a phase asks it, the data."""
    found = [] if start is None else [of_pipeline(start)]
    asked = any(isinstance(phase, DiffusionPhase) and phase.identity and phase.judged for phase in order.recipe.phases)
    if order.identity is not None and order.identity_terms is not None and asked:
        found.append(order.identity_terms)
    return [*found, *order.data_terms]


@contextmanager
def _without_bars() -> Iterator[None]:
    """Save without bars of transformers between the lines of a run; what others set about bars holds again afterwards."""
    before = transformers_logging.set_tqdm_hook(lambda kind, given, named: kind(*given, **{**named, "disable": True}))
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def _load(folder: Path | None, recipe: Recipe) -> HeadSwapPipeline:
    return build(PRESETS[recipe.preset], seed=recipe.seed) if folder is None else load_pipeline(folder)


def _train_phase(
    order: Order, phase: Phase, pipeline: HeadSwapPipeline, metrics: Metrics, resume: bool, tell: Tell | None
) -> None:
    recipe = order.recipe
    # accelerate keeps the precision of a process' first accelerator for all others; each phase has its own.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=order.device == "cpu",
        mixed_precision=_MIXED[phase.optimisation.precision],
        gradient_accumulation_steps=phase.optimisation.accumulate,
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                # Attention to a single token has queries that get no gradient.
                find_unused_parameters=isinstance(phase, DiffusionPhase),
                # Else what is exchanged is held twice, 7 GiB of it by the full preset.
                gradient_as_bucket_view=True,
            )
        ],
    )
    seed, dtype = recipe.seed, _DTYPES[phase.optimisation.precision]

    def picture(step: int) -> Path:
        return order.out / "validation" / f"{phase.name}-{step:07d}.png"

    task: Task
    if isinstance(phase, AutoencoderPhase):
        vae = pipeline.vae
        task = AutoencoderTask(
            vae,
            phase,
            order.train,
            seed,
            accelerator,
            lambda step: validate_autoencoder(vae, _held_out(order, phase.size, 1), dtype, picture(step)),
        )
    else:
        options = SamplingOptions(
            steps=recipe.validation_steps,
            guidance_scale=recipe.validation_guidance,
            window=max(phase.frames, 2),
            overlap=0,
            seed=seed,
            shared_noise=phase.shared_noise,
        )
        frames = phase.frames
        task = DiffusionTask(
            pipeline,
            phase,
            order.train,
            seed,
            accelerator,
            None if order.identity is None else order.identity[0],
            lambda step: validate_diffusion(pipeline, _held_out(order, phase.size, frames), options, dtype, picture(step)),
        )
    run_phase(
        task,
        name=phase.name,
        seed=seed,
        steps=phase.steps,
        optimisation=phase.optimisation,
        keeping=phase.keeping,
        accelerator=accelerator,
        checkpoints=_checkpoints(order.out, phase),
        metrics=metrics,
        resume=resume,
        tell=tell,
    )
    if isinstance(phase, AutoencoderPhase):
        samples = [resized(order.train.sample(number, 1), phase.size) for number in range(_MEASURED_SAMPLES)]
        pipeline.vae.eval().requires_grad_(False)
        pipeline.vae.register_to_config(scaling_factor=measured_scaling(pipeline.vae, samples))


def _checkpoints(out: Path, phase: Phase) -> Checkpoints:
    return Checkpoints(out / "checkpoints" / phase.name, phase.keeping.keep)


def _held_out(order: Order, size: int, frames: int) -> list[TrainingSample]:
    return [resized(order.held_out.sample(number, frames), size) for number in range(order.recipe.validation_samples)]


def _finish(
    order: Order,
    folder: Path | None,
    start: str,
    ingredients: Sequence[Ingredient],
    sampling: Mapping[str, Any],
    final: Path,
) -> None:
    pipeline = _load(folder, order.recipe)
    made = Provenance(
        data=order.data,
        start=start,
        steps={phase.name: phase.steps for phase in order.recipe.phases},
        identity=None if order.identity is None else order.identity[1],
        measured=measured(order.out),
        version=order.version,
        ingredients=ingredients,
        sampling=sampling,
        changes=changes_of(order.out),
    )
    with appearing(final) as partial, _without_bars():
        for network in pipeline.components.values():
            if isinstance(network, torch.nn.Module):  # one by one: a pipeline warns that half precision does not run on a CPU
                network.half()
        pipeline.save_pretrained(partial)
        write_sampling(partial, sampling)
        (partial / "README.md").write_text(model_card(order.recipe, made, recipe_text(order.recipe)), encoding="utf-8")
