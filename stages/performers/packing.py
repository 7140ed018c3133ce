"""The files of the ICT-FaceKit as the one file that ``HeadModel.load`` reads: this project ships neither.

``FaceXModel`` in github.com/ICT-VGL/ICT-FaceKit (MIT licence) holds Wavefront files with the same vertices in the same order:
``generic_neutral_mesh.obj``, ``identity000.obj`` and so on, and one of each expression, by its name.
"""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.problems import UsageError
from stages.performers.head import HIDDEN

NEUTRAL = "generic_neutral_mesh.obj"
MAXIMUM_BYTES = 64 * 2**20
"""Largest file that is read; the real ones have 4 MB."""

# fmt: off
MULTIPIE = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443, 268, 493, 1914,
    2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360, 1507, 1542, 1537, 1528,
    1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841,
    5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)
# fmt: on
"""Vertices of the 68 points of Multi-PIE, as the ICT-FaceKit's own description lists them."""


def packed(folder: Path) -> bytes:
    """The packed model: an ``.npz`` file with the arrays that ``stages/networks/model_entries.py`` lists; equal for equal files.

    Args:
        folder: ``FaceXModel`` of the ICT-FaceKit, or the folder that holds it.

    Raises:
        UsageError: files are missing, are no Wavefront files, or have other vertices than the neutral face.
    """
    folder = folder / "FaceXModel" if (folder / "FaceXModel").is_dir() else folder
    files = {path.stem: path for path in sorted(folder.glob("*.obj"))}
    identities = [name for name in files if re.fullmatch(r"identity\d+", name)]
    expressions = [name for name in files if name not in identities and name != Path(NEUTRAL).stem]
    if not (folder / NEUTRAL).is_file() or not identities or not expressions:
        raise UsageError(
            [f"{folder} does not hold {NEUTRAL}, identity000.obj ... and expressions such as jawOpen.obj."],
            "Give the folder FaceXModel of github.com/ICT-VGL/ICT-FaceKit.",
        )
    lines = _lines(folder / NEUTRAL)
    neutral = _vectors(folder / NEUTRAL, lines, "v", 3)
    faces = _Faces(folder / NEUTRAL, lines)
    textures = _vectors(folder / NEUTRAL, lines, "vt", 2)
    vertex, texture = faces.corners.max(axis=(0, 1))
    if max(vertex, *MULTIPIE) >= len(neutral) or texture >= len(textures):
        raise UsageError([f"{folder / NEUTRAL} has fewer vertices than its faces name."], "Copy it again.")

    def displacements(names: list[str]) -> npt.NDArray[np.float16]:
        found = []
        for name in names:
            moved = _vectors(files[name], _lines(files[name]), "v", 3)
            if moved.shape != neutral.shape:
                raise UsageError(
                    [f"{files[name]} has {len(moved)} vertices, {NEUTRAL} {len(neutral)}."], "Take all files of one version."
                )
            with np.errstate(over="ignore"):
                found.append((moved - neutral).astype(np.float16))
            if not np.isfinite(found[-1]).all():
                raise UsageError([f"{files[name]} moves vertices by more than can be kept."], "Copy it again.")
        return np.stack(found)

    file = io.BytesIO()
    np.savez_compressed(
        file,
        neutral=neutral,
        identity=displacements(identities),
        expression=displacements(expressions),
        expression_names=np.array(expressions),
        triangles=faces.corners[:, :, 0],
        triangle_material=faces.material,
        materials=np.array(faces.materials),
        uv=textures,
        triangle_uv=faces.corners[:, :, 1],
        multipie68=np.array(MULTIPIE, np.int64),
    )
    return file.getvalue()


def _lines(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise UsageError([f"{path} is larger than {MAXIMUM_BYTES} bytes."], "Give the files of the ICT-FaceKit.")
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UsageError([f"{path} cannot be read: {error.strerror or error}."], "Give the files of the ICT-FaceKit.") from error
    return [words for line in text.splitlines() if (words := line.split())]


def _vectors(path: Path, lines: list[list[str]], kind: str, length: int) -> npt.NDArray[np.float32]:
    """float32 [n, length] of the lines that begin with ``kind``."""
    try:
        found = np.array([[float(word) for word in words[1 : 1 + length]] for words in lines if words[0] == kind], np.float32)
        if found.ndim != 2 or found.shape[1] != length or not np.isfinite(found).all():
            raise ValueError("vectors of another length, or none")
    except ValueError as error:
        raise UsageError([f"{path} is no Wavefront file that can be read ({kind}: {error})."], "Copy it again.") from error
    return found


class _Faces:
    """Faces, cut into triangles from their first corner.

    Attributes:
        corners: int32 [triangles, 3, 2], vertices and texture coordinates. material: int8 [triangles], into ``materials``.
    """

    def __init__(self, path: Path, lines: list[list[str]]) -> None:
        corners: list[list[tuple[int, int]]] = []
        names: list[str] = []
        current = ""
        try:
            for words in lines:
                if words[0] == "usemtl":
                    current = words[1]
                elif words[0] == "f":
                    face = [_corner(word) for word in words[1:]]
                    for second, third in itertools.pairwise(face[1:]):
                        corners.append([face[0], second, third])
                        names.append(current)
            self.materials = sorted(set(names))
            self.material = np.array([self.materials.index(name) for name in names], np.int8)
            self.corners = np.array(corners, np.int32)
            if self.corners.ndim != 3 or self.corners.min() < 0:
                raise ValueError("no faces, or faces counted from the end")
        except (ValueError, IndexError, OverflowError) as error:
            raise UsageError([f"{path} is no Wavefront file that can be read (f: {error})."], "Copy it again.") from error
        if missing := [name for name in HIDDEN if name not in self.materials]:
            raise UsageError(
                [f"{path} has no faces of the material {', '.join(missing)}, which performers are rendered without."],
                "Take the files of the ICT-FaceKit as they are published.",
            )


def _corner(word: str) -> tuple[int, int]:
    """Vertex and texture coordinate of ``1/2`` or ``1/2/3``, counted from 0."""
    vertex, texture = word.split("/")[:2]
    return int(vertex) - 1, int(texture) - 1
