"""Generated pictures laid over the target's crop.

A network that was trained with backgrounds draws the whole person. One that was not draws a head on white, which is matted in
over the target's own body.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.blocks import dilate
from stages.diffusion.placement import PRESENT, onto_scene, placed_part
from stages.filling import membrane
from stages.renderer import Portrait, Scene
from stages.segmentation import BACKGROUND, FACE, GRID, HAIR, NECK, OTHER
from stages.warp import topology
from stages.warp.neck import jaw_shadow, underlay
from stages.warp.shapes import polygon_coverage

Picture = NDArray[np.uint8]
Weights = NDArray[np.float32]

ALIKE, UNLIKE = 18.0, 48.0
"""Difference, 0..255, up to which a generated pixel shows what is there anyway, and from which it does not."""

DETAIL = 1 / 170
"""Pictures are compared without detail finer than this share of the side, which autoencoders lose."""

GAP = 0.03
"""Half the width, share of the side, of gaps in what is generated that are closed."""

HEAD_BORDER = 0.012
"""The old head's labels may end this share of the side before the head does."""

ROOM = {HAIR: (0.2, 0.32), FACE: (0.08, 0.16)}
"""Distance from where parts of the source's matte come to lie, in heights of the face, over which the new head's zone ends."""

WHITE = 10.0
"""Largest distance from white, 0..255, that counts as paper."""

OPAQUE = 0.8
"""Share of the ink farther inside from which a pixel counts as opaque: colours vary."""

RIM = 0.03
"""Width, share of the side, in which the border of a head on white may be soft."""

REACH = 0.08
"""How far a head may reach beyond where the person network sees it, share of the side."""

NECK_FADE = (0.1, 0.55)
"""Distance below the chin, in eye distances, over which a generated neck gives way to the target's own."""


def head_zone(portrait: Portrait, scene: Scene) -> Weights:
    """Where the source's head, hair included, may come to lie in the target: float32 [size, size] in 0..1.

    Its matte without the neck, brought onto the aligned face by a similarity in the picture's plane, with room for what a turn
    of the head moves: more around hair, which hides or shows itself, than around the face.
    """
    size = scene.picture.shape[0]
    matrix = onto_scene(portrait, scene)
    height = max(float(np.linalg.norm(scene.aligned[152, :2] - scene.aligned[10, :2])), 1.0)
    zone = np.zeros((size, size), np.float32)
    for label, (near, far) in ROOM.items():
        missing = placed_part(portrait, label, matrix) < PRESENT
        distance = cv2.distanceTransform(missing.astype(np.uint8), cv2.DIST_L2, 5) / height
        zone = np.maximum(zone, 1 - _smooth((distance - near) / (far - near)))
    return zone


def on_background(scene: Scene, generated: Picture, zone: Weights) -> tuple[Picture, Weights]:
    """A picture drawn on the background.

    The network draws the whole person, but only the head is wanted: the target stays as it is, except where the new head may
    lie and where the old one was. The target's shape-agnostic mask is no limit: it would cut off hair that is longer or wider
    than the target's (in training heads outgrow it too, by the common scale of foreground and cloth). Where the picture shows
    what is there anyway (the background, the target's own cloth), that is taken instead: it has not lost detail to the
    autoencoder. Hands and things before the head stay too.

    Args:
        scene: the target's frame.
        generated: uint8 RGB [size, size, 3].
        zone: of the new head, see ``head_zone``.

    Returns:
        uint8 RGB [size, size, 3] and what of it is generated, float32 [size, size] in 0..1.
    """
    size = scene.picture.shape[0]
    head = dilate(np.isin(scene.labels, (HAIR, FACE, NECK)), HEAD_BORDER * size)
    there = np.where(head[..., None], scene.background, scene.picture)
    difference = _difference(generated, there)
    # What the network shows of the background is the plate, which may lack what moves there.
    behind = scene.labels == BACKGROUND
    difference[behind] = np.minimum(difference, _difference(generated, scene.background))[behind]
    share = _smooth((difference - ALIKE) / (UNLIKE - ALIKE))
    share = cv2.blur(cv2.dilate(share, np.ones((5, 5), np.uint8)), (5, 5))
    # Skin that happens to look like the wall behind it is skin all the same: in the face, on the neck, and in small gaps.
    share = np.maximum(share, polygon_coverage(scene.aligned[topology.FACE_OVAL, :2], share.shape))
    share = np.maximum(share, cv2.blur((scene.labels == NECK).astype(np.float32), (5, 5)))
    reach = 2 * max(round(GAP * size), 1) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    share = np.asarray(cv2.morphologyEx(share, cv2.MORPH_CLOSE, disc), np.float32)
    share *= np.maximum(zone, cv2.GaussianBlur(head.astype(np.float32), (0, 0), 0.5 * HEAD_BORDER * size))
    share *= 1 - _occluders(scene)
    result = cv2.blendLinear(there, generated, 1 - share, share)
    return _with_occluders(np.asarray(result, np.uint8), scene), np.asarray(share, np.float32)


def _difference(one: Picture, other: Picture) -> Weights:
    """Largest difference of the colours, 0..255, without fine detail: float32 [size, size]."""
    blur = max(DETAIL * one.shape[0], 0.5)
    red, green, blue = cv2.split(cv2.absdiff(*(cv2.GaussianBlur(picture, (0, 0), blur) for picture in (one, other))))
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.float32)


def on_white(scene: Scene, generated: Picture, person: Weights | None = None) -> tuple[Picture, Weights]:
    """A head drawn on white, matted in over the target without its old head.

    Args:
        scene: the target's frame.
        generated: uint8 RGB [size, size, 3].
        person: probability of a person in ``generated``, float32 [GRID, GRID] (``stages.segmentation.PersonNetwork``): what lies
            far from any is no head. Ignored where nobody is seen.

    Returns:
        uint8 RGB [size, size, 3] and the head's opacity, float32 [size, size] in 0..1.
    """
    size = scene.picture.shape[0]
    alpha, colours = white_key(generated)
    if person is not None and (person > 0.5).sum() > 0.005 * GRID**2:
        near = cv2.resize(dilate(person > 0.5, REACH * GRID).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        alpha = alpha * near
    alpha = alpha * _above_neck(scene)
    unit = scene.pose.scale
    result, skin, _ = underlay(scene.picture, scene.background, scene.labels, scene.landmarks, unit, None)
    shaded = result * jaw_shadow(alpha, skin, unit)[..., None]
    mixed = shaded * (1 - alpha[..., None]) + colours * alpha[..., None]
    return _with_occluders(np.clip(np.rint(mixed), 0, 255).astype(np.uint8), scene), np.asarray(alpha, np.float32)


def white_key(picture: Picture) -> tuple[Weights, Picture]:
    """Opacity of what is drawn on white paper, float32 [size, size], and its own colours, uint8 RGB [size, size, 3].

    Paper is white that the border can be reached from. Near it a pixel is a mixture of paper and the colours farther inside:
    I = alpha F + (1 - alpha) 255, solved for alpha by least squares.
    """
    size = picture.shape[0]
    ink = 255 - picture.astype(np.float32)
    white = np.pad((ink.max(axis=2) <= WHITE).astype(np.uint8), 1, constant_values=1)
    _, numbered = cv2.connectedComponents(white, connectivity=4)
    outside = (numbered == numbered[0, 0])[1:-1, 1:-1]
    inner = ~dilate(outside, RIM * size)
    if not inner.any():
        return _smooth((ink.max(axis=2) - WHITE) / WHITE), picture
    colours = membrane(picture, inner, relax=1)
    full = 255 - colours
    mixed = (ink * full).sum(axis=2) / np.maximum((full * full).sum(axis=2), 1.0)
    alpha = np.where(inner, 1, np.clip(mixed / OPAQUE, 0, 1) * ~outside).astype(np.float32)
    opaque = np.maximum(alpha, 0.1)[..., None]
    unmixed = np.clip(255 - ink / opaque, 0, 255)
    # Of what is nearly paper the own colours cannot be told: those farther inside go on.
    trust = _smooth((alpha - 0.4) / 0.4)[..., None]
    own = np.where(inner[..., None], picture, np.rint(unmixed * trust + np.clip(colours, 0, 255) * (1 - trust)))
    return alpha, np.asarray(own, np.uint8)


def _above_neck(scene: Scene) -> Weights:
    """One on the head, falling to zero below the aligned face's chin: the neck is the target's own."""
    chin, brow = scene.aligned[152, :2], scene.aligned[10, :2]
    down = (chin - brow) / max(float(np.linalg.norm(chin - brow)), 1e-6)
    y, x = np.mgrid[: scene.picture.shape[0], : scene.picture.shape[0]].astype(np.float32) + 0.5
    depth = ((x - chin[0]) * down[0] + (y - chin[1]) * down[1]) / scene.pose.scale
    sideways = np.abs((x - chin[0]) * down[1] - (y - chin[1]) * down[0]) / scene.pose.scale
    fade = 1 - _smooth((depth - NECK_FADE[0]) / (NECK_FADE[1] - NECK_FADE[0]))
    # Long hair hangs beside the neck and stays.
    return np.asarray(np.maximum(fade, _smooth((sideways - 0.8) / 0.3)), np.float32)


def _occluders(scene: Scene) -> Weights:
    hidden = (scene.labels == OTHER).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(hidden, (0, 0), 1.2) if hidden.any() else hidden, np.float32)


def _with_occluders(picture: Picture, scene: Scene) -> Picture:
    share = _occluders(scene)
    if not share.any():
        return picture
    return np.asarray(cv2.blendLinear(picture, scene.picture, 1 - share, share), np.uint8)


def _smooth(share: NDArray[np.float32]) -> Weights:
    share = np.clip(share, 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)
