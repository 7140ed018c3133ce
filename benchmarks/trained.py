"""What benchmarks of a trained pipeline have in common: what they are given on the command line, opened."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from flows.training import open_samples
from schemas.configuration import load_settings
from schemas.problems import HeadswapError
from stages.networks.loading import load_pipeline
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.registry import ModelRegistry
from stages.networks.runtime import find_device
from stages.training.recipe import Recipe
from stages.training.recipe_files import chosen_recipe
from stages.training.samples import SampleSource


@dataclass(frozen=True)
class Trained:
    """A trained pipeline and the samples to measure it with.

    Attributes:
        pipeline: on its device. recipe: it was trained by. train, held_out: samples. told: what the data are, in words.
        dtype: precision to compute in.
    """

    pipeline: HeadSwapPipeline
    recipe: Recipe
    train: SampleSource
    held_out: SampleSource
    told: str
    dtype: torch.dtype


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A command line that names a pipeline, its data and where results go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--data", required=True, help="as it was given to headswap train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--recipe", type=Path, help="as it was given to headswap train; default: the preset's own")
    parser.add_argument("--models", type=Path, help="folder of the registered models")
    parser.add_argument("--head-model", type=Path, help="packed ICT-FaceKit; default: the registered one")
    parser.add_argument("--clips", type=Path, help="folder of rendered clips; default: beside --out")
    parser.add_argument("--samples", type=int, default=40, help="held-out frames, several of each person")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    return parser


def registry(folder: Path | None = None) -> ModelRegistry:
    """The registered models where ``headswap`` looks for them, its configuration included, or in a folder that is given."""
    return ModelRegistry(folder or load_settings(environment=os.environ).models)


def opened(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Trained:
    """What the command line names; makes the folder ``--out``. What cannot be opened ends the program, in words."""
    given.out.mkdir(parents=True, exist_ok=True)
    clips = given.clips or given.out.with_name(f"{given.out.name}-clips")
    try:
        recipe = chosen_recipe(given.recipe, given.preset)
        train, held_out, told = open_samples(given.data, recipe, registry(given.models), clips, given.head_model)
        pipeline = load_pipeline(given.pipeline).to(find_device(given.device))
    except HeadswapError as error:
        parser.exit(2, f"{error}\n")
    return Trained(pipeline, recipe, train, held_out, told, torch.bfloat16 if given.precision == "bfloat16" else torch.float32)
