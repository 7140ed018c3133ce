"""The linear model of the 478 face landmarks: identity and expression coefficients -> a shape.

``shape = mean + identity coefficients @ identity + expression weights @ expression`` in model space: unit = mean distance of
the eye centres, x to the image right, y up, z to the viewer, origin midway between the eyes. How the built-in arrays came about
is told in ``docs/face-model.md``.

Expression directions have ARKit's names with ``_L`` and ``_R`` for the person's left and right. Wherever a person writes a name,
ARKit's own spelling is understood too (``eyeBlinkLeft`` for ``eyeBlink_L``), and a name without a side means both
(``browInnerUp``).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.face3d.reading import Reading

Floats = NDArray[np.float64]

_BUILTIN_FILE = resources.files("stages.face3d") / "data" / "face_model.npz"


@dataclass(frozen=True, eq=False)
class FaceModel:
    """Arrays of the model, float64, in model space.

    Attributes:
        mean: ``[478, 3]`` neutral mean face.
        identity: ``[K, 478, 3]`` directions whose coefficients have unit variance.
        expression: ``[E, 478, 3]`` displacement at weight 1; weights lie in 0..1.
        names: ``E`` names of the expression directions.
        rigid: indices of the landmarks that expressions move least, ``[R]``: what the pose is measured on.
        residual: ``[478]`` root mean square error of the model per landmark, a fraction of the inter-ocular distance.
        reading: filters that read weights and the head's turn off MediaPipe's landmarks; None for models that were not measured
            on detections: their weights are found by bounded least squares.
    """

    mean: Floats
    identity: Floats
    expression: Floats
    names: tuple[str, ...]
    rigid: NDArray[np.int64]
    residual: Floats
    reading: Reading | None = None

    @classmethod
    def load(cls, path: Path | resources.abc.Traversable) -> FaceModel:
        """Read a file of arrays with the attributes' names (``numpy`` archive, any float type)."""
        with path.open("rb") as file, np.load(file) as arrays:
            return cls(
                mean=arrays["mean"].astype(np.float64),
                identity=arrays["identity"].astype(np.float64),
                expression=arrays["expression"].astype(np.float64),
                names=tuple(str(name) for name in arrays["expression_names"]),
                rigid=arrays["rigid"].astype(np.int64),
                residual=arrays["residual_rms"].astype(np.float64),
                reading=_reading(arrays) if "reading_weights" in arrays.files else None,
            )

    @classmethod
    def builtin(cls) -> FaceModel:
        """The model that ships; read once in a process."""
        return _builtin()

    def save(self, path: Path) -> None:
        """Write the arrays in half precision, compressed: what ``load`` reads."""
        arrays: dict[str, Any] = {
            "mean": self.mean.astype(np.float16),
            "identity": self.identity.astype(np.float16),
            "expression": self.expression.astype(np.float16),
            "expression_names": np.array(self.names),
            "rigid": self.rigid.astype(np.int16),
            "residual_rms": self.residual.astype(np.float16),
        }
        if self.reading is not None:
            arrays |= {f"reading_{name}": _packed(values) for name, values in vars(self.reading).items()}
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def shape(self, identity: ArrayLike, expression: ArrayLike | None = None) -> Floats:
        """Landmarks ``[..., 478, 3]`` of coefficients ``[..., K]`` and weights ``[..., E]`` (none: the neutral face)."""
        shape = self.mean + np.tensordot(np.asarray(identity, np.float64), self.identity, axes=1)
        return shape if expression is None else shape + self.displacement(expression)

    def displacement(self, expression: ArrayLike) -> Floats:
        """What an expression adds to the neutral face: ``[..., E]`` -> ``[..., 478, 3]``."""
        return np.asarray(np.tensordot(np.asarray(expression, np.float64), self.expression, axes=1))

    def indices(self, name: str) -> tuple[int, ...]:
        """Directions meant by a name in any accepted spelling.

        Raises:
            KeyError: no such expression; its message lists the known ones.
        """
        found = self._spellings.get(name.lower())
        if found is None:
            raise KeyError(f"unknown expression {name!r}; known: {', '.join(self.names)}")
        return found

    @functools.cached_property
    def _spellings(self) -> dict[str, tuple[int, ...]]:
        spellings: dict[str, tuple[int, ...]] = {}
        for index, name in enumerate(self.names):
            stem, _, side = name.rpartition("_")
            spellings[name.lower()] = (index,)
            if stem:
                spellings[f"{stem}{'Left' if side == 'L' else 'Right'}".lower()] = (index,)
                spellings[stem.lower()] = (*spellings.get(stem.lower(), ()), index)
        return spellings

    @functools.cached_property
    def mirrored(self) -> NDArray[np.int64]:
        """For each expression direction the one of the other side of the face, ``[E]``."""
        other = {"L": "R", "R": "L"}
        swapped = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}
        partners = []
        for name in self.names:
            stem, _, side = name.rpartition("_")
            partners.append(self.names.index(swapped.get(name, f"{stem}_{other[side]}" if stem else name)))
        return np.array(partners)


def _packed(values: Floats) -> NDArray[np.generic]:
    """Large arrays in half precision."""
    return values.astype(np.float16 if values.ndim == 3 else np.float32)


def _reading(arrays: Mapping[str, NDArray[np.generic]]) -> Reading:
    return Reading(**{field.name: arrays[f"reading_{field.name}"].astype(np.float64) for field in fields(Reading)})


@functools.cache
def _builtin() -> FaceModel:
    return FaceModel.load(_BUILTIN_FILE)


@functools.cache
def builtin_digest() -> str:
    """Digest of the built-in model's file: part of the key of every stage that uses it."""
    return hashlib.blake2b(_BUILTIN_FILE.read_bytes(), digest_size=16).hexdigest()
