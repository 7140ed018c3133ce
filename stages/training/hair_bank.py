"""The bank of long-hair masks for Hair Enhancement: where the hair of long-haired people lies in their crops.

The masks that ship (``data/long_hair.npz``) were made from rendered performers, nobody's likeness, by

    python -m stages.training.hair_bank HEAD_MODEL.npz stages/training/data/long_hair.npz

which gives the same file again. The paper takes them from long-haired people's videos, in the same blocks (paper's figure).
"""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.tables import HAIR_BLOCKS
from stages.blocks import hair_grid

COUNT, SIZE, SEED = 96, 256, 20
"""How many masks, of which size they are rendered, and the seed of the people."""


@functools.cache
def long_hair() -> npt.NDArray[np.bool_]:
    """Hair of long-haired people in blocks of their crops: boolean [96, 32, 32]."""
    with (files("stages.training") / "data" / "long_hair.npz").open("rb") as file, np.load(file) as data:
        packed = data["masks"]
    return np.unpackbits(packed, axis=1).astype(bool).reshape(len(packed), HAIR_BLOCKS, HAIR_BLOCKS)


def render_masks(head_model: Path, numbers: range = range(COUNT), seed: int = SEED) -> npt.NDArray[np.bool_]:
    """Masks of performers with hair to the shoulders and longer, looking this way and that: boolean [n, 32, 32]."""
    from stages.performers.appearance import Room
    from stages.performers.casting import Person
    from stages.performers.head import HeadModel
    from stages.performers.scene import Performer
    from stages.segmentation import HAIR
    from stages.training.performer_data import act, camera_for, record

    model = HeadModel.load(head_model)
    masks = []
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        person = Person.drawn(int(rng.integers(2**31)))
        look = replace(
            person.appearance,
            hair_style="long",
            tips=float(rng.uniform(-26, -13)),
            parting=float(rng.uniform(-0.4, 0.4)),
            wave=float(rng.uniform(0.1, 0.6)),
        )
        performer = Performer(model, person.identity, look)
        acting = act(model, 2, 25.0, int(rng.integers(2**31)))
        clip = record(performer, camera_for(performer, SIZE, rng), Room.drawn(number, plain=True), acting, SIZE, fill=False)
        masks.append(hair_grid(clip.labels[0] == HAIR))
    return np.stack(masks)


def main() -> None:
    """Write the bank: ``HEAD_MODEL.npz OUT.npz``."""
    if len(sys.argv) != 3:
        sys.exit("Usage: python -m stages.training.hair_bank HEAD_MODEL.npz OUT.npz")
    head_model, out = (Path(name) for name in sys.argv[1:])
    masks = render_masks(head_model)
    np.savez_compressed(out, masks=np.packbits(masks.reshape(len(masks), -1), axis=1))


if __name__ == "__main__":
    main()
