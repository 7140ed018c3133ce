"""From somebody's folder of weights to a registered pipeline: recognised, converted, checked, described."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from schemas.problems import ModelError, UsageError
from stages.networks.convert import convert, find_published
from stages.networks.loading import load_pipeline
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.pose_guider import PoseGuider
from stages.networks.presets import PRESETS, Preset
from stages.networks.registered import Layout, Registration, pipeline_digest, pipeline_files

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
    name: str, source: Path, destination: Path, terms: Terms, *, allow_pickle: bool = False, preset: Preset | None = None
) -> Registration:
    """Write a pipeline into an empty folder and describe it.

    Args:
        name: to be registered under.
        source: a folder of ``HeadSwapPipeline.save_pretrained``, which is copied as it is, or of the files that AniPortrait or
            AnimateAnyone publish (``stages.networks.convert``), which are converted to safetensors.
        destination: written to.
        terms: under which the weights may be used.
        allow_pickle: take published ``.pth`` files, of which only the weights are read.
        preset: sizes of published weights; default: the one whose width they have.

    Raises:
        UsageError: no licence is given.
        ModelError: what is there is no pipeline, is incomplete, damaged, misshapen or not finite; with everything that is wrong.
    """
    if not source.is_dir():
        missing = not source.exists()
        raise ModelError(
            "model_missing" if missing else "model_wrong_kind",
            f"There is no folder {source}." if missing else f"{source} is a file; a pipeline is a folder.",
            "Give the folder that holds reference_unet, denoising_unet, pose_guider, vae and image_encoder, or model_index.json.",
        )
    card = _front_matter(source / CARD)
    stated = card.get("license") or ""  # hubs allow a list
    licence = terms.licence or (", ".join(map(str, stated)) if isinstance(stated, list) else str(stated))
    if not licence.strip():
        raise UsageError(
            [f"The licence of {source} is not given."], "Say under which terms the weights may be used: --licence TEXT."
        )
    if (source / INDEX).is_file():
        layout: Layout = "headswap"
        pipeline = load_pipeline(source, torch.float32)
        for path in pipeline_files(source):
            copy = destination / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        if (source / CARD).is_file():
            shutil.copyfile(source / CARD, destination / CARD)
    else:
        pipeline = convert(find_published(source), preset, allow_pickle=allow_pickle)
        layout = "aniportrait" if isinstance(pipeline.pose_guider, PoseGuider) else "animateanyone"
        pipeline.save_pretrained(destination)
    permissive = terms.licence is None and licence.strip().lower() in PERMISSIVE
    # Only a plain yes counts: the word "no" in quotes is a text like any other.
    commercial = terms.commercial if terms.commercial is not None else card.get("commercial", permissive) is True
    return Registration(
        name=name,
        licence=licence.strip(),
        commercial=commercial,
        origin=terms.origin or str(card.get("origin") or "") or ("" if layout == "headswap" else f"converted from {layout}"),
        layout=layout,
        profile=profile_of(pipeline),
        picture_size=picture_size_of(pipeline) if layout == "headswap" else PUBLISHED_PICTURE_SIZE,
        background=pipeline.denoising_net.sees_background,
        digest=pipeline_digest(destination),
        files={path.relative_to(destination).as_posix(): _sha256(path) for path in pipeline_files(destination)},
        notes=tuple(untrained_parts(pipeline)),
    )


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


def _front_matter(card: Path) -> dict[str, object]:
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
