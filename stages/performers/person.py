"""A performer at rest: head, hair, clothes, glasses and hands as one mesh, with everything that no frame changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.performers import shading
from stages.performers.appearance import Appearance
from stages.performers.head import NECK_BOTTOM, NECK_TOP, HeadModel, following_height
from stages.performers.paint import LASH, head_paint, plain_paint
from stages.performers.posing import neighbour_mean, strand_directions
from stages.performers.props import glasses, hand
from stages.performers.raster import ambient_occlusion, vertex_normals
from stages.performers.surfaces import Skull, Surface, cap, clothes, curtains, knot

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

MATERIALS = {
    "M_Face": shading.SKIN,
    "M_BackHead": shading.SKIN,
    "M_Teeth": shading.TEETH,
    "M_GumsTongue": shading.GUMS,
    "M_ScleraLeft": shading.LEFT_EYE,
    "M_ScleraRight": shading.RIGHT_EYE,
    "M_IrisLeft": shading.LEFT_EYE,
    "M_IrisRight": shading.RIGHT_EYE,
    "M_EyeLashes": shading.LASHES,
}
SHORTER = 0.45
"""Share of the head model's lashes that is left out: dark sheets of their length would look like the slit of an open eye."""

LOWEST_LIT = -26.0
"""Height in centimetres below which shadows are not worth a look."""


@dataclass(frozen=True)
class Mesh:
    """A performer at rest, [n] vertices and [m] triangles; the hands' come last.

    Attributes:
        vertices: float32 [n, 3], centimetres. triangles: int32 [m, 3]. kind: int32 [m], of surface. paint: float32 [n, 15].
        ragged: float32 [m]. strand, cut, follow: float32 [n] (``surfaces.Surface``; ``follow`` is a share 0..1 here).
        openness: float32 [n], share of the sky seen. strands: float32 [n, 3], their direction.
        hands: per side (+1 the person's left, -1 the right) the slices of vertices and of triangles.
    """

    vertices: Floats
    triangles: Integers
    kind: Integers
    paint: Floats
    ragged: Floats
    strand: Floats
    cut: Floats
    follow: Floats
    openness: Floats
    strands: Floats
    hands: dict[int, tuple[slice, slice]]

    @property
    def bare(self) -> tuple[int, int]:
        """How many vertices and triangles there are without hands."""
        return min(place.start for place, _ in self.hands.values()), min(part.start for _, part in self.hands.values())


def hair(skull: Skull, look: Appearance) -> list[Surface]:
    """The surfaces of a hair style."""
    seed = look.texture_seed
    if look.hair_style == "bald":
        return []
    if look.hair_style == "buzz":
        return [cap(skull, 0.28, ragged=0.5, seed=seed)]
    if look.hair_style == "short":
        return [cap(skull, 0.55, ragged=0.8, seed=seed), cap(skull, 1.0, quiff=0.35, ragged=1.2, seed=seed + 1)]
    if look.hair_style == "quiff":
        return [cap(skull, 0.55, quiff=0.5, ragged=0.8, seed=seed), cap(skull, 1.1, quiff=1.5, ragged=1.2, seed=seed + 1)]
    if look.hair_style == "curly":
        return [cap(skull, 1.2, curl=0.5, ragged=1.0, seed=seed), cap(skull, 3.0, curl=1.0, ragged=1.6, seed=seed + 1)]
    if look.hair_style == "knot":
        return [cap(skull, 0.35, ragged=0.7, seed=seed), cap(skull, 0.6, ragged=1.0, seed=seed + 1), knot(skull, seed)]
    under = cap(skull, 0.08, ragged=0.6, seed=seed)
    volume = 1.3 if look.hair_style == "bob" else 1.1
    return [
        under,
        *curtains(skull, look.tips, parting=look.parting, volume=volume, wave=look.wave, build=look.build, seed=seed),
    ]


def openness_of(model: HeadModel, base: Floats, look: Appearance) -> Floats:
    """Openness to the sky of a person's vertices, for others who wear the same: float32 [vertices]."""
    return assemble(model, base, look).openness


def assemble(model: HeadModel, base: Floats, look: Appearance, openness: Floats | None = None) -> Mesh:
    """Build the mesh of a person.

    Args:
        base: float32 [vertices, 3], the neutral head. openness: float32 [vertices], where it is known; measured by default.
    """
    skin = model.vertices_of("M_Face", "M_BackHead")
    dressed = [(shading.HAIR, surface) for surface in hair(Skull(base[skin & (base[:, 1] > -6)]), look)]
    dressed += [(shading.CLOTH, surface) for surface in clothes(base[skin], look.clothes_style, look.build)]
    if look.glasses > 0:
        dressed.append((shading.GLASSES, _glasses(model, base, look)))
    bodiless = len(dressed)
    for side in (1, -1):
        palm, sleeve = hand(side)
        dressed += [(shading.HAND, palm), (shading.SLEEVE, sleeve)]
    kinds = np.array([MATERIALS.get(name, shading.SKIN) for name in model.materials])
    drawn = _drawn(model, base, kinds)
    first = kinds[model.material[drawn]]
    seed = float(look.texture_seed % 97)
    lashes = _lash_length(model, base)
    paint = head_paint(base, model.points68, seed)
    paint[:, LASH] = np.where(model.vertices_of("M_EyeLashes"), lashes, paint[:, LASH])
    parts: dict[str, list[Any]] = {
        "vertices": [base],
        "triangles": [model.triangles[drawn]],
        "kind": [first],
        "paint": [paint],
        "ragged": [np.where(first == shading.LASHES, 1.0, 0.0)],
        "strand": [base[:, 0]],
        "along": [np.zeros(len(base))],
        "cut": [lashes],
        "follow": [following_height(base)],
    }
    offset, corners = len(base), int(drawn.sum())
    hands: dict[int, tuple[slice, slice]] = {}
    for number, (material, surface) in enumerate(dressed):
        parts["vertices"].append(surface.vertices)
        parts["triangles"].append(surface.triangles + offset)
        parts["kind"].append(np.full(len(surface.triangles), material))
        layer = 5.0 * number + seed if material in (shading.CLOTH, shading.SLEEVE) else 5.0 * number
        parts["paint"].append(plain_paint(surface.strand, surface.along, layer))
        parts["ragged"].append(np.full(len(surface.triangles), surface.ragged))
        parts["strand"].append(surface.strand)
        parts["along"].append(surface.along)
        parts["cut"].append(surface.cut)
        parts["follow"].append(surface.follow)
        if number >= bodiless:
            side = (1, -1)[(number - bodiless) // 2]
            before = hands.get(side, (slice(offset, 0), slice(corners, 0)))
            hands[side] = (
                slice(before[0].start, offset + len(surface.vertices)),
                slice(before[1].start, corners + len(surface.triangles)),
            )
        offset += len(surface.vertices)
        corners += len(surface.triangles)
    triangles = np.ascontiguousarray(np.concatenate(parts["triangles"]), np.int32)
    kind = np.concatenate(parts["kind"]).astype(np.int32)
    vertices, ragged, strand, along, cut, follow = (
        np.ascontiguousarray(np.concatenate(parts[name]), np.float32)
        for name in ("vertices", "ragged", "strand", "along", "cut", "follow")
    )
    shares = np.clip((follow - NECK_BOTTOM) / (NECK_TOP - NECK_BOTTOM), 0, 1)
    body = int(min(part.start for _, part in hands.values()))
    count = int(min(place.start for place, _ in hands.values()))
    occluders = np.ascontiguousarray(triangles[:body][kind[:body] != shading.LASHES])
    framed = vertices[:count][vertices[:count, 1] > LOWEST_LIT]
    if openness is None:
        openness = np.full(len(vertices), 0.8, np.float32)  # hands meet the open sky
        still, around = vertices[:count], triangles[:body]
        openness[:count] = ambient_occlusion(still, vertex_normals(still, around), occluders, framed=framed)
        openness[:count] = neighbour_mean(openness[:count], around)
    return Mesh(
        vertices,
        triangles,
        kind,
        np.concatenate(parts["paint"]).astype(np.float32),
        ragged,
        strand,
        cut,
        np.asarray(shares * shares * (3 - 2 * shares), np.float32),
        openness,
        strand_directions(vertices, triangles, strand, along),
        hands,
    )


def _glasses(model: HeadModel, base: Floats, look: Appearance) -> Surface:
    eyes = np.stack([base[model.vertices_of("M_Sclera" + side)].mean(0) for side in ("Left", "Right")])
    marks = base[model.points68]
    temple = np.stack([marks[16], marks[0]])
    ears = temple + np.array([[0.4, 0.6, -2.0], [-0.4, 0.6, -2.0]])
    # Far enough before the lids for lashes and brows.
    front = np.array([0.0, eyes[:, 1].mean(), float(marks[[27, 28, 20, 23], 2].max()) + 0.1])
    size = 0.40 * float(eyes[0, 0] - eyes[1, 0])
    return glasses(eyes, front, ears, roundness=look.glasses_roundness, size=size, thickness=0.10 + 0.09 * look.glasses)


def _drawn(model: HeadModel, base: Floats, kinds: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Triangles of the head model that are drawn: bool. Left out: what clothes always hide, and the lower lashes."""
    middle = base[model.triangles].mean(1)
    hidden = (middle[:, 1] < -16.2) | ((middle[:, 1] < -12.3) & (np.abs(middle[:, 0]) > 6.0))
    blink = model.expression[[model.expression_names.index(f"eyeBlink_{side}") for side in "LR"]]
    still = np.abs(blink[:, :, 1]).sum(0) < 0.35  # lower lashes hardly move when the eyes close
    lower = (kinds[model.material] == shading.LASHES) & still[model.triangles[:, 0]]
    return ~(hidden | lower)


def _lash_length(model: HeadModel, base: Floats) -> Floats:
    """Share of an eyelash that is left towards its tip at each vertex: float32 [vertices], 0 at the tip; lashes only."""
    cut = np.zeros(len(base), np.float32)
    lashes = model.vertices_of("M_EyeLashes")
    for side in ("Left", "Right"):
        centre = base[model.vertices_of("M_Sclera" + side)].mean(0)
        chosen = lashes & (base[:, 0] * centre[0] > 0)
        reach = np.linalg.norm(base[chosen] - centre, axis=1)
        low, high = np.percentile(reach, [5, 98])
        cut[chosen] = np.clip(((high - reach) / (high - low) - SHORTER) / (1 - SHORTER), 0, 1) * 0.95
    return cut
