"""Augmentation as in the paper's Shape-Agnostic Mask and Hair Enhancement: pure functions of arrays.

Foreground (in the target) and surviving cloth (in the condition image) are scaled by one common random factor and put back over
the inpainted background, so that neither a border in the inpainting nor the place of the cloth tells the shape of the head.
Random long hair and rectangles on the shoulders eat into the cloth (``stages.condition_image``).

The paper names no other augmentation and none is done: a mirrored person has other landmarks and another identity, and colours of
reference and target must stay those of one person in one light.

Pictures are uint8 [size, size, 3] RGB; points are x, y in pixels of the crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from stages.blocks import expand_grid, shape_agnostic_mask
from stages.condition_image import head_mask, surviving_cloth
from stages.face3d.drawing import draw_landmarks
from stages.face3d.topology import LEFT_EYE, NOSE_TIP, OUTER_CORNERS, RIGHT_EYE
from stages.filling import fill_smooth
from stages.segmentation import BACKGROUND
from stages.training.samples import TrainingSample
from stages.video.crops import opencv_matrix

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Cloth: TypeAlias = Callable[[Pixels, Floats, "Mask | None"], Mask]
"""What cloth the network is shown, of labels, shoulders and hair (``stages.condition_image.surviving_cloth``)."""

FACE_LANDMARKS = (RIGHT_EYE.iris, LEFT_EYE.iris, NOSE_TIP, *OUTER_CORNERS)
"""MediaPipe's points for ``samples.FACE_POINTS``."""

COMPOSITION = 1
"""Goes up when the same clips, seed and number give another sample: by what is computed here, in ``stages.condition_image``, in
the drawing of landmarks, in how the sources choose frames and references, or by other hair in the bank. Part of the sources'
digests, so that no run goes on with samples of another kind."""

FOREIGN_REFERENCES = 0.5
"""Share of training samples whose reference is from another clip of the person, where there is one: at work the portrait comes
from other light and a camera of its own, always. Not all of them, because within one clip the reference says more about the
picture, from which skin and hair are learnt sooner; held-out samples keep to the paper's other frame of the same clip."""

SHRINKS = 0.8
"""Below this factor foregrounds are smoothed before they are resampled: what a cubic reads of four pixels is then too little to
average over what becomes one."""

ANCHOR_HEIGHT = 0.4
"""About where the middle of the head is in a crop, share of its side from the top."""


@dataclass(frozen=True)
class Augmentation:
    """How much of what.

    Attributes:
        smallest, largest: of the common factor of foreground and cloth, drawn evenly between; 1 and 1 for none. The paper gives
            no numbers.
        unscaled: share of samples whose factor is exactly 1, so that nothing is resampled, as nothing is at work.
        long_hair: share of samples in which a random long-haired person's hair eats into the cloth. Not all of them: at work
            there is only the target's own hair, and the source's.
        block_fill: share of samples of videos whose background is filled in under the shape-agnostic mask; the others keep the
            plate, as at work. Unscaled ones are filled in always, or the plate's own outline would be that of the head to be
            drawn. Sources that know the true background see to that themselves.
    """

    smallest: float = 0.85
    largest: float = 1.2
    long_hair: float = 0.8
    block_fill: float = 0.5
    unscaled: float = 0.2

    def __post_init__(self) -> None:
        if not 0.25 <= self.smallest <= self.largest <= 4:
            raise ValueError(f"the factors must lie between 0.25 and 4, in order, not {self.smallest} and {self.largest}")
        shares = {"with long hair": self.long_hair, "with a filled background": self.block_fill, "unscaled": self.unscaled}
        for what, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"the share of samples {what} must lie between 0 and 1, not {share}")


NO_AUGMENTATION = Augmentation(1.0, 1.0, 0.0, 0.0, 0.0)
"""As at work: for validation."""


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive frames of one person with what a source knows about them, before augmentation.

    Attributes:
        pictures, backgrounds: uint8 [frames, size, size, 3], the crops, and what is behind the person.
        labels: uint8 [frames, size, size] (``schemas.tables.LABELS``). opacity: uint8 [frames, size, size], 0..255, share of
            each pixel that shows the person.
        landmarks: float32 [frames, 478, 3]. shoulders: float32 [frames, 2, 3], x, y and visibility, left first.
        person: who it is. frame_numbers: in the clip.
    """

    pictures: Pixels
    backgrounds: Pixels
    labels: Pixels
    opacity: Pixels
    landmarks: Floats
    shoulders: Floats
    person: str
    frame_numbers: tuple[int, ...]


def scale_matrix(factor: float, size: int) -> npt.NDArray[np.float64]:
    """The affine map [2, 3] that scales a crop's foreground.

    Enlarging keeps the middle of the head in place; shrinking the middle of the lower border, through which the body goes on.
    """
    anchor = np.array([size / 2, size if factor < 1 else ANCHOR_HEIGHT * size])
    return np.column_stack([factor * np.eye(2), (1 - factor) * anchor])


def move_points(points: npt.NDArray[np.floating], matrix: npt.NDArray[np.floating]) -> Floats:
    """Points [..., 2 or 3] through an affine map: x and y are moved, a third coordinate stays. float32, same shape."""
    moved = np.array(points, np.float64)
    moved[..., :2] = moved[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    return moved.astype(np.float32)


def over(background: Pixels, layer: Floats, opacity: Floats) -> Pixels:
    """A layer over a background.

    Args:
        layer: float32 [size, size, 3], colours times opacity, 0..255. opacity: float32 [size, size], 0..1.
    """
    mixed = background * (1 - opacity[..., None]) + layer
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def foreground_layer(picture: Pixels, background: Pixels, opacity: Floats) -> Floats:
    """The person's colours times opacity, what shines through of the background taken out: float32 [size, size, 3], 0..255.

    Over the same background they give the picture again wherever the person is opaque or the background is the true one.
    """
    layer = picture - background * (1 - opacity[..., None])
    return np.asarray(np.clip(layer, 0, 255 * opacity[..., None]), np.float32)


def scale_foreground(layer: Floats, opacity: Floats, matrix: npt.NDArray[np.float64]) -> tuple[Floats, Floats]:
    """A foreground through an affine map that scales it; what the crop cut off goes on as at its border.

    Cubic: bilinear interpolation would leave 0.4 to 0.7 of the energy of fine detail (its Laplacian's, periods of 3 and 4 pixels)
    and so teach softer heads than the reference shows; this leaves 0.75 to 1. Its overshoots at the outline are no halo: opacity
    is cut to what there is, and the colours times opacity by the same share.

    Args:
        layer: float32 [size, size, 3], colours times opacity, 0..255. opacity: float32 [size, size], 0..1.
        matrix: [2, 3], see ``scale_matrix``.

    Returns:
        Both, of the same shapes and ranges; the same arrays where nothing moves.
    """
    if np.allclose(matrix, np.eye(2, 3)):
        return layer, opacity
    both = np.dstack([layer, opacity])
    factor = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if factor < SHRINKS:
        # The deviation that a pixel of the result has in the source beyond that of a pixel there.
        both = cv2.GaussianBlur(both, (0, 0), 0.5 * np.sqrt(factor**-2 - 1), borderType=cv2.BORDER_REPLICATE)
    both = _warped(both, matrix, cv2.INTER_CUBIC)
    found = both[..., 3]
    within = np.clip(found, 0, 1)
    colours = both[..., :3] * (within / np.maximum(found, 1e-6))[..., None]
    return np.clip(colours, 0, 255 * within[..., None]), within


def scale_mask(mask: Mask, matrix: npt.NDArray[np.float64]) -> Mask:
    """A mask [size, size] through an affine map: the pixels that it covers by more than half."""
    if np.allclose(matrix, np.eye(2, 3)):
        return mask
    return np.asarray(_warped(mask.astype(np.float32), matrix, cv2.INTER_LINEAR) > 0.5)


def _warped(layer: Floats, matrix: npt.NDArray[np.float64], interpolation: int) -> Floats:
    size = (layer.shape[1], layer.shape[0])
    return np.asarray(
        cv2.warpAffine(layer, opencv_matrix(matrix), size, flags=interpolation, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def soft_person(labels: Pixels) -> Pixels:
    """Opacity of the person where only a label map is known: its border softened by about a pixel and a half. uint8, 0..255."""
    person = (labels != BACKGROUND).astype(np.float32)
    return np.asarray(np.rint(255 * cv2.GaussianBlur(person, (0, 0), max(0.003 * labels.shape[0], 0.5))), np.uint8)


@dataclass(frozen=True)
class Draw:
    """What chance decides for one sample.

    Attributes:
        factor: of foreground and cloth. hair: boolean [32, 32], eats into the cloth, or None.
        filled: whether the background of a video is filled in (``block_filled``).
    """

    factor: float
    hair: Mask | None
    filled: bool = False


def draw(augmentation: Augmentation, bank: Mask | None, rng: np.random.Generator) -> Draw:
    """Draw for a sample; ``bank``: boolean [n, 32, 32] (``hair_bank``), or None for no long hair."""
    unscaled, factor = rng.uniform() < augmentation.unscaled, float(rng.uniform(augmentation.smallest, augmentation.largest))
    wanted, mirrored, which = rng.uniform() < augmentation.long_hair, rng.uniform() < 0.5, float(rng.uniform())
    filled = bool(rng.uniform() < augmentation.block_fill) or unscaled
    factor = 1.0 if unscaled else factor
    if not wanted or bank is None:
        return Draw(factor, None, filled)
    hair = bank[int(which * len(bank))]
    return Draw(factor, hair[:, ::-1] if mirrored else hair, filled)


def compose(window: Window, reference: Pixels, drawn: Draw, cloth_of: Cloth = surviving_cloth) -> TrainingSample:
    """The training sample of a window: the same factor, and the same hair, for all of its frames.

    Args:
        reference: uint8 [size, size, 3], the head of another frame on white (``stages.condition_image.reference_picture``).
        cloth_of: another rule for the cloth, for those who want to know what the paper's is good for.
    """
    frames, size = window.labels.shape[:2]
    matrix = scale_matrix(drawn.factor, size)
    hair = None if drawn.hair is None else expand_grid(drawn.hair, size)
    target, condition = np.empty_like(window.pictures), np.empty_like(window.pictures)
    head = np.empty((frames, size, size), bool)
    landmarks = move_points(window.landmarks, matrix)
    for k in range(frames):
        picture, background, labels = window.pictures[k], window.backgrounds[k], window.labels[k]
        opacity = window.opacity[k].astype(np.float32) / 255
        cloth = cloth_of(labels, window.shoulders[k], hair)
        layer = foreground_layer(picture, background, opacity)
        target[k] = over(background, *scale_foreground(layer, opacity, matrix))
        condition[k] = over(background, *scale_foreground(layer * cloth[..., None], opacity * cloth, matrix))
        head[k] = scale_mask(head_mask(labels), matrix)
    return TrainingSample(
        reference=reference,
        target=target,
        drawing=np.stack([draw_landmarks(points, size) for points in landmarks]),
        background=condition,
        head=head,
        face_points=np.ascontiguousarray(landmarks[:, list(FACE_LANDMARKS), :2]),
        person=window.person,
        frame_numbers=window.frame_numbers,
    )


def block_filled(window: Window, seed: int) -> Window:
    """The window before a background that is filled in under the shape-agnostic mask of the person in all of its frames.

    The plates of videos show what is known behind the person, so that their filled part has the person's shape; in blocks it has
    not (paper, Shape-Agnostic Mask).
    """
    person = (window.labels != BACKGROUND).any(axis=0)
    return before(window, np.stack([inpainted(background, person, seed) for background in window.backgrounds]))


def before(window: Window, backgrounds: Pixels) -> Window:
    """The window's people before other backgrounds, uint8 [frames, size, size, 3]."""
    pictures = np.empty_like(window.pictures)
    for k, picture in enumerate(window.pictures):
        opacity = window.opacity[k].astype(np.float32) / 255
        pictures[k] = over(backgrounds[k], foreground_layer(picture, window.backgrounds[k], opacity), opacity)
    return replace(window, pictures=pictures, backgrounds=backgrounds)


def inpainted(background: Pixels, foreground: Mask, seed: int, dilation: float = 0.02) -> Pixels:
    """A background as an inpainter leaves it: everything under the shape-agnostic mask of the foreground is filled in.

    For sources that know the true background, which no inpainter finds (paper, Shape-Agnostic Mask).

    Args:
        background: uint8 [size, size, 3]. foreground: boolean [size, size]. seed: of the grain.
    """
    return fill_smooth(background, ~shape_agnostic_mask(foreground, dilation), seed)


def outline_leakage(condition: Pixels, head: Mask, factors: tuple[float, ...] = (0.8, 0.88, 1.12, 1.2)) -> float:
    """How much more edge there is in a condition image along the head's outline than along outlines of other sizes.

    About 1 where nothing tells the outline; 2 where it carries twice the edges. Edges of the picture's own content count on both
    sides alike.

    Args:
        condition: uint8 [size, size, 3]. head: boolean [size, size], whose outline should not be seen.
        factors: sizes of the head to compare with, about its middle.

    Raises:
        ValueError: if the mask is empty.
    """
    if not head.any():
        raise ValueError("there is no head whose outline could leak")
    smooth = cv2.GaussianBlur(condition.astype(np.float32), (0, 0), 1.0)
    strength = np.sqrt(sum(cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) ** 2 for order in ((1, 0), (0, 1)))).max(axis=-1)
    rows, columns = np.nonzero(head)
    middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5])

    def along(factor: float) -> float:
        matrix = np.column_stack([factor * np.eye(2), (1 - factor) * middle])
        flags, border = cv2.INTER_LINEAR, cv2.BORDER_CONSTANT
        scaled = cv2.warpAffine(head.astype(np.float32), opencv_matrix(matrix), head.shape[::-1], flags=flags, borderMode=border)
        inside = (scaled > 0.5).astype(np.uint8)
        band = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        return float(strength[band].mean()) if band.any() else 0.0

    others = float(np.mean([along(factor) for factor in factors]))
    return (along(1.0) + 1.0) / (others + 1.0)
