"""From somebody's folder of weights to a registered pipeline: recognised, converted, checked, described."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from schemas.problems import ModelError, UsageError
from stages.networks.convert import convert, find_published
from stages.networks.files import Tell, announce, gigabytes, sha256_of, silent
from stages.networks.loading import load_pipeline, pickled_weights
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.pose_guider import PoseGuider
from stages.networks.presets import PRESETS, Preset
from stages.networks.registered import SAMPLING, Layout, Registration, pipeline_digest, pipeline_files, read_sampling

INDEX = "model_index.json"
CARD = "README.md"
"""A model card, whose front matter may state the licence."""

PUBLISHED_PICTURE_SIZE = 512

PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0")
"""Licences, as model cards name them, that allow commercial use."""


@dataclass(frozen=True)
class Terms:
    """What a person says of the weights; what is None is taken from the model card.

    Attributes:
        licence: in words.
        commercial: whether it allows commercial use.
        origin: where the weights come from.
    """

    licence: str | None = None
    commercial: bool | None = None
    origin: str | None = None


def import_pipeline(
    name: str,
    source: Path,
    destination: Path,
    terms: Terms,
    *,
    allow_pickle: bool = False,
    preset: Preset | None = None,
    tell: Tell = silent,
) -> Registration:
    """Write a pipeline into an empty folder and describe it.

    Args:
        name: to be registered under.
        source: a folder of ``HeadSwapPipeline.save_pretrained``, which is copied as it is, or, where parts of it are pickles,
            written anew as safetensors; or of the files that AniPortrait or AnimateAnyone publish (``stages.networks.convert``),
            which are converted to safetensors. All in the precision they have.
        destination: written to.
        terms: under which the weights may be used.
        allow_pickle: take published ``.pth`` files, and ``.bin`` files of parts, of which only the weights are read.
        preset: sizes of published weights; default: the one whose width they have.
        tell: is given a line before each thing that takes long.

    Raises:
        UsageError: no licence is given; with what else can be seen at once.
        ModelError: what is there is no pipeline, is incomplete, damaged, misshapen or not finite, with everything that is wrong;
            or does not fit onto the disk.
    """
    if not source.is_dir():
        missing = not source.exists()
        raise ModelError(
            "model_missing" if missing else "model_wrong_kind",
            f"There is no folder {source}." if missing else f"{source} is a file; a pipeline is a folder.",
            "Give the folder that holds reference_unet, denoising_unet, pose_guider, vae and image_encoder, or model_index.json.",
        )
    card = front_matter(source / CARD)
    stated = card.get("license") or ""  # hubs allow a list
    licence = terms.licence or (", ".join(map(str, stated)) if isinstance(stated, list) else str(stated))
    unsaid = [] if licence.strip() else [f"The licence of {source} is not given."]
    remedy = "Say under which terms the weights may be used: --licence TEXT."
    try:
        published = None if (source / INDEX).is_file() else find_published(source)
    except ModelError as error:
        if not unsaid:
            raise
        raise UsageError([error.message, *unsaid], f"{error.remedy} {remedy}") from error
    if unsaid:
        raise UsageError(unsaid, remedy)
    sampling = {}
    pickles: list[Path] = []
    if published is None:
        layout: Layout = "headswap"
        sampling = read_sampling(source)
        pickles = pickled_weights(source)
        announce("Checking the weights:", _size([*pipeline_files(source), *pickles]), tell)
        pipeline = load_pipeline(source, None, allow_pickle=allow_pickle)
    else:
        announce("Checking the weights:", _size(published.weights), tell)
        pipeline = convert(published, preset, allow_pickle=allow_pickle, dtype=None)
        layout = "aniportrait" if isinstance(pipeline.pose_guider, PoseGuider) else "animateanyone"
    notes, background = untrained_parts(pipeline), pipeline.denoising_net.sees_background
    if layout == "headswap" and not pickles:
        pipeline.to("meta")  # its sizes are all that is still wanted; the memory is not
        _copy(source, destination, tell)
    else:
        _save(pipeline, destination, tell)
    if layout == "headswap":
        for part in (SAMPLING, CARD):
            if (source / part).is_file():
                shutil.copyfile(source / part, destination / part)
    permissive = terms.licence is None and licence.strip().lower() in PERMISSIVE
    # Only a plain yes counts: the word "no" in quotes is a text like any other.
    commercial = terms.commercial if terms.commercial is not None else card.get("commercial", permissive) is True
    files = pipeline_files(destination)
    for path in files:
        path.chmod(0o644)  # safetensors writes for its user alone, but a folder of models may be shared
    announce("Computing digests:", _size(files), tell)
    with ThreadPoolExecutor(1) as beside:  # hashing lets go of the interpreter
        digest = beside.submit(pipeline_digest, destination)
        digests = {path.relative_to(destination).as_posix(): sha256_of(path) for path in files}
    return Registration(
        name=name,
        licence=licence.strip(),
        commercial=commercial,
        origin=terms.origin or str(card.get("origin") or "") or ("" if layout == "headswap" else f"converted from {layout}"),
        layout=layout,
        profile=profile_of(pipeline),
        picture_size=picture_size_of(pipeline) if layout == "headswap" else PUBLISHED_PICTURE_SIZE,
        background=background,
        digest=digest.result(),
        files=digests,
        notes=tuple(notes),
        sampling=sampling,
    )


def _copy(source: Path, destination: Path, tell: Tell) -> None:
    files = pipeline_files(source)
    _require_space(destination, _size(files))
    for path in files:
        announce(f"Copying {path.relative_to(source)}:", path.stat().st_size, tell)
        copy = destination / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _save(pipeline: HeadSwapPipeline, destination: Path, tell: Tell) -> None:
    """What ``save_pretrained`` writes, a network at a time: each is forgotten when it is written, and only its sizes stay."""
    networks: dict[str, Any] = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    sizes = {name: sum(it.numel() * it.element_size() for it in part.state_dict().values()) for name, part in networks.items()}
    _require_space(destination, sum(sizes.values()))
    try:
        for name, network in networks.items():
            announce(f"Writing {name}:", sizes[name], tell)
            network.save_pretrained(destination / name)
            network.to("meta")
    except SafetensorError as error:
        raise OSError(f"{error}") from error  # its writer has no other way to say that the disk is full
    pipeline.scheduler.save_pretrained(destination / "scheduler")
    pipeline.save_config(destination)


def _require_space(folder: Path, size: int) -> None:
    """``ModelError`` where a folder's disk has less room than is to be written."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ModelError(
            "models_folder",
            f"The pipeline takes {gigabytes(size)}, and the disk of {folder.parent} has {gigabytes(free)} left.",
            "Make room, or set HEADSWAP_MODELS to a folder on another disk.",
            retryable=True,
        )


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def picture_size_of(pipeline: HeadSwapPipeline) -> int:
    """Pixels of a side that a pipeline is meant for: those of the preset it has the sizes of, else what its autoencoder says."""
    profile = profile_of(pipeline)
    if profile in PRESETS:
        return PRESETS[profile].picture_size
    return int(pipeline.vae.config.get("sample_size") or PUBLISHED_PICTURE_SIZE)


def untrained_parts(pipeline: HeadSwapPipeline) -> list[str]:
    """Sentences about parts whose last layer is still zero, as it was before any training."""
    notes = []
    guider = pipeline.pose_guider
    last = guider.final_proj if isinstance(guider, PoseGuider) else guider.conv_out
    if not bool(last.weight.any()):
        notes.append("Its PoseGuider was never trained: landmarks have no effect.")
    motion = [
        module for place, module in pipeline.denoising_net.named_modules() if place.endswith("temporal_transformer.proj_out")
    ]
    if not any(bool(module.weight.any()) for module in motion):
        notes.append("Its MotionModule is missing or was never trained: every frame stands alone.")
    return notes


def profile_of(pipeline: HeadSwapPipeline) -> str:
    """The preset that has the pipeline's sizes, or ``custom``."""
    config = pipeline.denoising_net.config
    for preset in PRESETS.values():
        sizes = preset.unet
        if (tuple(config.channels), config.layers, config.heads) == (sizes.channels, sizes.layers, sizes.heads):
            return preset.name
    return "custom"


def front_matter(card: Path) -> dict[str, object]:
    """The YAML between the first two lines of dashes of a model card; nothing where there is none."""
    if not card.is_file():
        return {}
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ModelError(
            "model_damaged", f"The front matter of {card} cannot be read: {' '.join(str(error).split())}.", "Mend it."
        ) from error
    return found if isinstance(found, dict) else {}
