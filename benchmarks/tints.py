"""Does an autoencoder learn colours? The one of the ablations, trained without and with weights of tints.

    python -m benchmarks.tints --out DIR

Measured on held-out targets: PSNR of whole pictures and of heads; the mean error of lightness, that of its detail (what a blur of
two pixels takes away) and of tint (distance in the a, b plane of CIELAB), the latter also where the truth is vivid. Writes
``tints.jpg`` (truth, and each weight) and replaces the section of ``docs/training.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import document
from benchmarks.ablations import DOCUMENT, RECIPE, Bench, Way
from benchmarks.learning import through_autoencoder, write_sheet
from benchmarks.trained import registry
from schemas.problems import HeadswapError
from stages.metrics.masks import peak_signal_to_noise
from stages.networks.loading import load_pipeline
from stages.training.recipe import Recipe
from stages.training.recipe_files import chosen_recipe
from stages.training.run import Order, train

PICTURES, SHOWN = 24, 8
WEIGHTS = (0.0, 0.05, 0.1, 0.25, 1.0)
DETAIL = 2.0
"""Deviation, in pixels, of the blur that takes detail away."""

VIVID = 25.0
"""Distance from grey in the a, b plane from which a colour counts as vivid."""


def with_tint(recipe: Recipe, tint: float) -> Recipe:
    """The recipe's autoencoder alone, with this weight of tints."""
    return recipe.model_copy(update={"phases": (recipe.phases[0].model_copy(update={"tint": tint}),)})


def errors(
    truth: Sequence[NDArray[np.uint8]], copies: Sequence[NDArray[np.uint8]], heads: Sequence[NDArray[np.bool_]]
) -> dict[str, float]:
    """Means over pictures uint8 [size, size, 3] with heads bool [size, size]: PSNR in dB; errors of lightness (0..100), of its
    detail, of tint and of tint where it is vivid."""
    one, other = np.stack(truth).astype(np.float32) / 255, np.stack(copies).astype(np.float32) / 255
    lab, found = (np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2LAB) for picture in pictures]) for pictures in (one, other))
    tint = np.linalg.norm((lab - found)[..., 1:], axis=-1)
    vivid = np.linalg.norm(lab[..., 1:], axis=-1) > VIVID
    detail = [
        light - np.stack([cv2.GaussianBlur(each, (0, 0), DETAIL) for each in light]) for light in (lab[..., 0], found[..., 0])
    ]
    return {
        "PSNR, dB": mean_psnr(truth, copies, [np.ones_like(head) for head in heads]),
        "head, dB": mean_psnr(truth, copies, heads),
        "lightness": float(np.abs((lab - found)[..., 0]).mean()),
        "its detail": float(np.abs(detail[0] - detail[1]).mean()),
        "tint": float(tint.mean()),
        "tint, vivid colours": float(tint[vivid].mean()) if vivid.any() else float("nan"),
    }


def mean_psnr(
    truth: Sequence[NDArray[np.uint8]], copies: Sequence[NDArray[np.uint8]], where: Sequence[NDArray[np.bool_]]
) -> float:
    return float(np.mean([peak_signal_to_noise(*each) for each in zip(copies, truth, where, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--head-model", type=Path, help="packed ICT-FaceKit; default: the registered one")
    given = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    try:
        bench = Bench(given.out, chosen_recipe(RECIPE, "demo"), 8, given.head_model or registry().require("ict"))
        train_on, held_out = bench.samples(Way(), "train"), bench.samples(Way(), "held_out")
        samples = [held_out.sample(number, 1) for number in range(PICTURES)]
        truth, heads = [sample.target[0] for sample in samples], [sample.head[0] for sample in samples]
        sheet = [truth[:SHOWN]]
        for tint in WEIGHTS:
            order = Order(
                with_tint(bench.recipe, tint),
                given.out / f"tint-{tint:g}",
                train_on,
                held_out,
                f"{bench.people} synthetic performers",
                device="cpu",
                data_digest=train_on.performers.digest,
            )
            pipeline = load_pipeline(train(order, resume=True, tell=lambda *told: print(*told, flush=True)))
            copies = [through_autoencoder(pipeline.to(torch.float32), picture) for picture in truth]
            rows[f"tint: {tint:g}"] = errors(truth, copies, heads)
            sheet.append(copies[:SHOWN])
    except HeadswapError as error:
        parser.exit(2, f"{error}\n")
    write_sheet(sheet, given.out / "tints.jpg", side=120)
    columns = list(next(iter(rows.values())))
    text = document.table(["", *columns], [[name, *(f"{row[c]:.2f}" for c in columns)] for name, row in rows.items()])
    document.replace("tints", text, DOCUMENT)
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the same result, whatever else the machine does
    main()
