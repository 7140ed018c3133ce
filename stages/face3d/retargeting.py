"""Expression from one face to another: the paper's Neu-Exp module and scale-aware retargeting, on landmarks in model space.

*Neu-Exp*: a face's neutral landmarks are ``L - L_t + L_t(expression = 0)``, with ``L_t`` the fitted model: the detail of the
landmarks is kept, the expression that the model explains is taken away. Applied to the source, and to a nearly neutral frame of
the driver.

*Scale-aware retargeting*: what the driver's landmarks do beyond the driver's neutral face is added to the source's neutral face,
scaled around eyes and mouth by the ratio of the features' sizes (the paper gives no formula; ours are in ``feature_ratios``).

Sums of scaled displacements do not close an eye or a mouth whose size differs. So the openings are carried over as such: each
pair of lid landmarks opens by the same share of its neutral opening as in the driver, each pair of lip landmarks by the driver's
gap times the mouth's scale. The gaze is carried over as the movement of the iris's place between the corners of the eye.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from stages.face3d.fitting import Poses, euler_angles
from stages.face3d.model import FaceModel
from stages.face3d.topology import (
    CHIN,
    EYES,
    INNER_CORNERS,
    INNER_LOWER,
    INNER_UPPER,
    LEFT_EYE,
    LIPS,
    OUTER_CORNERS,
    RIGHT_EYE,
    UNDER_NOSE,
    Eye,
)

Floats = NDArray[np.float64]

CLOSED = 0.12
"""Share of its neutral opening below which an eye counts as closed: what MediaPipe leaves open of a closed eye."""

UNEXPLAINED = 0.75
"""Share of the motion beyond the fitted expressions that is carried over."""

_SURELY_OPEN, _WIDE_OPEN = 0.4, 0.7
_WINKS = (0.4, 0.6)  # opening of an eye beside a shut one up to which it is doubted, and from which it is believed
_CLOSED_LIPS = 0.025  # of the mouth's width: what MediaPipe leaves between closed lips
_PARTED_LIPS = 0.06
_RESTING_LIPS, _WIDE_OPEN_LIPS = 0.06, 0.2
_MOST_CLOSED = 0.1  # share of a clip's frames in which the mouth may be taken for closed
_SURELY_RESTING = 0.8  # share of the gap between the driver's lips at rest that is no opening: the face at rest may be wrong
_EYE_REACH = 0.16
_MOUTH_REACH = 0.45
_RATIO_LIMITS = (0.5, 2.0)
_FRONTAL_DEGREES = 20.0


@dataclass(frozen=True)
class FeatureRatios:
    """Sizes of the source's features as multiples of the driver's, each across and up: s_eye (left, right) and s_mouth."""

    left_eye: tuple[float, float] = (1.0, 1.0)
    right_eye: tuple[float, float] = (1.0, 1.0)
    mouth: tuple[float, float] = (1.0, 1.0)


def canonical_landmarks(landmarks: ArrayLike, poses: Poses) -> Floats:
    """Landmarks ``[n, 478, 3]`` in pixels without their head pose: model space."""
    return poses.canonical(landmarks)


def neutral_landmarks(shapes: ArrayLike, expression: ArrayLike, model: FaceModel) -> Floats:
    """Neu-Exp in model space: ``[..., 478, 3]`` and its fitted weights ``[..., E]`` -> the face at rest, lips closed."""
    return closed_lips(np.asarray(shapes, np.float64) - model.displacement(expression))


def closed_lips(shapes: Floats) -> Floats:
    """Faces ``[..., 478, 3]`` in model space with the lips brought together, each half of the way."""
    flat = shapes.reshape(-1, *shapes.shape[-2:])
    return _open_lips(flat, -lip_gaps(flat), _kernels()).reshape(shapes.shape)


def lips_as_closed_as_seen(neutral: Floats, shapes: Floats) -> Floats:
    """The face at rest ``[478, 3]`` with its lips no closer than in a clip's frames ``[n, 478, 3]`` with the mouth most closed.

    On some faces the detector never lets lips touch. A fit explains that gap, which all frames have, by an expression; it is
    theirs at rest all the same, and a mouth that is closed in the clip would stand open on the other face.
    """
    width = float(np.linalg.norm(neutral[INNER_CORNERS[0]] - neutral[INNER_CORNERS[1]]))
    lowest = np.minimum(np.quantile(lip_gaps(shapes), _MOST_CLOSED, axis=0), _RESTING_LIPS * width)
    missing = np.maximum(lowest - lip_gaps(neutral[None])[0], 0.0)
    return _open_lips(neutral[None], missing[None], _kernels())[0]


def openings(landmarks: ArrayLike) -> Floats:
    """How far the left eye, the right eye and the mouth are open, in widths of each: ``[n, 478, 3]`` -> ``[n, 3]``, any pose."""
    points = np.asarray(landmarks, np.float64)

    def opening(upper: tuple[int, ...], lower: tuple[int, ...], corners: tuple[int, int]) -> Floats:
        middle = slice(len(upper) // 2 - 1, len(upper) // 2 + 2)
        gap = np.linalg.norm(points[:, list(upper[middle])] - points[:, list(lower[middle])], axis=-1).mean(-1)
        return np.asarray(gap / np.linalg.norm(points[:, corners[0]] - points[:, corners[1]], axis=-1))

    eyes = [opening(eye.upper, eye.lower, eye.corners) for eye in EYES]
    return np.stack([*eyes, opening(INNER_UPPER, INNER_LOWER, INNER_CORNERS)], axis=1)


def restlessness(expression: Floats, opened: Floats) -> Floats:
    """How far from rest faces are, ``[n]``: the size of the fitted expression (weights ``[n, E]``), an open mouth, closing eyes.

    Args:
        opened: ``openings`` of the same frames, ``[n, 3]``. They are counted beside the weights because a face that talks all
            the time is easily fitted with an identity that pouts.
    """
    usual = np.maximum(np.quantile(opened[:, :2], 0.75, axis=0), 1e-6)
    closing_eyes = np.maximum(1 - opened[:, :2] / usual, 0.0).max(1)
    return np.asarray(np.linalg.norm(expression, axis=1) + 4 * opened[:, 2] + 2 * closing_eyes)


def nearly_neutral_frames(restless: Floats, rotation: Floats, count: int = 9) -> NDArray[np.int64]:
    """The ``count`` frames nearest to rest among those seen nearly from the front, the best first.

    Args:
        restless: ``restlessness`` of the frames, ``[n]``.
        rotation: ``[n, 3, 3]`` head rotations; without a frontal frame the straightest quarter is taken.
    """
    yaw, pitch, _ = np.abs(euler_angles(rotation)).T
    turned = np.maximum(yaw, pitch)
    limit = max(_FRONTAL_DEGREES, float(np.quantile(turned, 0.25)))
    order = np.argsort(restless + np.where(turned <= limit, 0.0, 1e3), kind="stable")
    return order[: min(count, int((turned <= limit).sum()))]


def feature_ratios(source: Floats, driver: Floats) -> FeatureRatios:
    """s_eye and s_mouth of two neutral faces ``[478, 3]`` in model space.

    Eyes: distance of the corners across, mean opening up. Mouth: distance of the corners across; up, how far a jaw drops goes
    with the length of the lower face rather than with how full the lips are, so the (geometric) mean of both is taken.
    """

    def ratio(one: float, other: float) -> float:
        return float(np.clip(one / max(other, 1e-6), *_RATIO_LIMITS))

    def eye(part: Eye) -> tuple[float, float]:
        across = ratio(_distance(source, *part.corners), _distance(driver, *part.corners))
        return across, ratio(float(lid_gaps(source[None], part).mean()), float(lid_gaps(driver[None], part).mean()))

    mouth = ratio(_distance(source, *OUTER_CORNERS), _distance(driver, *OUTER_CORNERS))
    jaw = ratio(_distance(source, UNDER_NOSE, CHIN), _distance(driver, UNDER_NOSE, CHIN))
    return FeatureRatios(eye(LEFT_EYE), eye(RIGHT_EYE), (mouth, float(np.sqrt(mouth * jaw))))


def face_size(neutral: Floats) -> float:
    """Size of a neutral face ``[478, 3]`` in model units: root mean square distance of its landmarks from their centre."""
    return float(np.sqrt(((neutral - neutral.mean(0)) ** 2).sum(-1).mean()))


def transferred(driver: Floats, driver_neutral: Floats, source_neutral: Floats, ratios: FeatureRatios) -> Floats:
    """The source's neutral face plus the driver's displacements, scaled: the sum as the paper has it, nothing else.

    Shapes as in ``retarget``.
    """
    return np.asarray(source_neutral + scale_field(ratios) * (driver - driver_neutral))


def retarget(
    driver: Floats,
    driver_neutral: Floats,
    source_neutral: Floats,
    ratios: FeatureRatios,
    *,
    blinks: Floats | None = None,
    believed: Floats | None = None,
) -> Floats:
    """The source's face with the driver's expression.

    Args:
        driver: landmarks of the driver's frames in model space, ``[n, 478, 3]``.
        driver_neutral: the driver's face at rest, ``[478, 3]``; a gap between its lips is no opening of the mouth.
        source_neutral: the source's face at rest, ``[478, 3]``.
        ratios: s_eye and s_mouth.
        blinks: how far the left and the right eye shall be closed instead, 0..1, ``[n, 2]``, NaN where as the driver's; as the
            driver's by default. ``driver`` is then without the edit.
        believed: the driver's frames as far as their motion is believed (``believed_motion``), ``[n, 478, 3]``; as they are by
            default. Openings and gaze are read off ``driver`` all the same.

    Returns:
        ``[n, 478, 3]`` model space.
    """
    kernels = _kernels()
    moved = transferred(driver if believed is None else believed, driver_neutral, source_neutral, ratios)
    for index, (eye, share) in enumerate(zip(EYES, lid_openings(driver, driver_neutral), strict=True)):
        factor, more = _opened_otherwise(share, None if blinks is None else blinks[:, index])
        share = share * factor + more
        # Open eyes keep what the sum gives them; towards closing, the share of the opening takes over.
        rest = np.maximum(lid_gaps(source_neutral[None], eye), 0.0)
        given = lid_gaps(moved, eye)
        shut, opened = closing(share) * rest, given * factor + more * rest
        wanted = shut + _smoothstep(share, _SURELY_OPEN, _WIDE_OPEN) * (opened - shut)
        moved = _move(moved, wanted - given, kernels.upper_lids[index])
        moved = _place_iris(moved, driver, driver_neutral, source_neutral, eye)
    width = np.linalg.norm(driver[:, INNER_CORNERS[0]] - driver[:, INNER_CORNERS[1]], axis=-1)[:, None]
    seen = lip_gaps(driver)
    resting = np.clip(lip_gaps(driver_neutral[None]), 0.0, _RESTING_LIPS * width)
    # Only near contact: how far a mouth is wide open does not hang on where its lips rest.
    near = 1.0 - _smoothstep(seen / np.maximum(width, 1e-6), _RESTING_LIPS, _WIDE_OPEN_LIPS)
    gaps = np.maximum(seen - _SURELY_RESTING * near * resting, 0.0)
    wanted = gaps * _smoothstep(gaps / np.maximum(width, 1e-6), _CLOSED_LIPS, _PARTED_LIPS) * ratios.mouth[1]
    return _open_lips(moved, wanted - lip_gaps(moved), kernels)


def closed_share(driver: Floats, driver_neutral: Floats) -> Floats:
    """How far the left and the right eye are closed, read off the lids: ``[n, 478, 3]``, ``[478, 3]`` -> ``[n, 2]``, 0..1.

    A fitted weight of ``eyeBlink`` says less: it is 0.4 to 0.7 when the eye is shut.
    """
    shares = [closing(share).mean(1) for share in lid_openings(driver, driver_neutral)]
    return np.clip(1.0 - np.stack(shares, axis=1), 0.0, 1.0)


def _opened_otherwise(share: Floats, blink: Floats | None) -> tuple[Floats, Floats]:
    """Factor on the opening of lid pairs and what is added, ``[n, 1]`` each, so that an eye is closed as far as asked for."""
    if blink is None:
        return np.ones((len(share), 1)), np.zeros((len(share), 1))
    before = np.clip(closing(share).mean(1), 0.0, 1.0)
    after = np.where(np.isfinite(blink), 1.0 - blink, before)
    factor = np.where(after < before, after / np.maximum(before, 1e-6), 1.0)
    return factor[:, None], np.maximum(after - before, 0.0)[:, None]


def believed_motion(driver: Floats, driver_neutral: Floats, explained: Floats) -> Floats:
    """The driver's frames with what no expression explains damped: part of it is the detector's error, new in every frame.

    Args:
        driver: ``[n, 478, 3]``, model space. driver_neutral: ``[478, 3]``.
        explained: displacement that fitted expressions account for, ``[n, 478, 3]``.

    Returns:
        ``[n, 478, 3]``.
    """
    face = driver_neutral + explained
    return np.asarray(face + UNEXPLAINED * (driver - face))


def scale_field(ratios: FeatureRatios) -> Floats:
    """The factor on each landmark's displacement, ``[478, 3]``: the features' ratios, fading smoothly into 1 around them."""
    field = np.ones((478, 3))
    kernels = _kernels()
    for share, (across, up) in zip(kernels.regions, (ratios.left_eye, ratios.right_eye, ratios.mouth), strict=True):
        wanted = np.array([across, up, np.sqrt(across * up)])
        field += share[:, None] * (wanted - 1)
    return field


def lid_gaps(shapes: Floats, eye: Eye) -> Floats:
    """Vertical distance of upper and lower lid at the seven pairs, ``[n, 478, 3]`` -> ``[n, 7]``; negative where they cross."""
    return np.asarray(shapes[:, list(eye.upper), 1] - shapes[:, list(eye.lower), 1])


def lip_gaps(shapes: Floats) -> Floats:
    """Vertical distance of the inner lips at the nine pairs, ``[n, 478, 3]`` -> ``[n, 9]``."""
    return np.asarray(shapes[:, list(INNER_UPPER), 1] - shapes[:, list(INNER_LOWER), 1])


def opening_ratios(driver: Floats, neutral: Floats, eye: Eye) -> Floats:
    """Opening of the lid pairs as shares of the neutral one, ``[n, 7]``; pairs near the corners lean on the eye as a whole."""
    gaps, rest = lid_gaps(driver, eye), np.maximum(lid_gaps(neutral[None], eye), 1e-6)
    whole = gaps.mean(1, keepdims=True) / rest.mean()
    lean = 0.3 * rest.max()
    return np.asarray(np.clip((gaps + lean * whole) / (rest + lean), 0.0, 2.5))


def lid_openings(driver: Floats, neutral: Floats) -> tuple[Floats, Floats]:
    """``opening_ratios`` of the left and the right eye, ``[n, 7]`` each, of eyes that blink together.

    Where one eye is shut and the other read as less than half open, the detector has mistaken the other one: it is read as its
    neighbour is. In real clips that is what such frames show; an eye that winks leaves the other wider open than that.
    """
    left, right = (opening_ratios(driver, neutral, eye) for eye in EYES)
    return _with_neighbour(left, right), _with_neighbour(right, left)


def _with_neighbour(share: Floats, other: Floats) -> Floats:
    own, beside = share.mean(1, keepdims=True), other.mean(1, keepdims=True)
    doubted = (1.0 - _smoothstep(beside, CLOSED, _SURELY_OPEN)) * (1.0 - _smoothstep(own, *_WINKS))
    believed = own + doubted * (np.minimum(own, beside) - own)
    return np.asarray(share * believed / np.maximum(own, 1e-9))


def closing(ratio: Floats) -> Floats:
    """Opening shares with the detector's remainder of a closed eye taken away: 0 up to ``CLOSED``, unchanged from 0.4."""
    return np.asarray(ratio * _smoothstep(ratio, CLOSED, _SURELY_OPEN))


def mirrored_displacement(displacement: Floats) -> Floats:
    """The same movement on the other side of the face, ``[..., 478, 3]``."""
    return np.asarray(displacement[..., mirrored_landmarks(), :] * (-1.0, 1.0, 1.0))


@functools.cache
def mirrored_landmarks() -> NDArray[np.int64]:
    """For each landmark the one on the other side of the face, ``[478]``, measured on the mean face."""
    mean = FaceModel.builtin().mean
    distance = np.linalg.norm(mean[:, None] - (mean * (-1.0, 1.0, 1.0))[None], axis=-1) ** 2
    _, partner = linear_sum_assignment(distance + distance.T)
    for right, left in zip(RIGHT_EYE.iris_points, (473, 476, 475, 474, 477), strict=True):
        partner[right], partner[left] = left, right
    return partner


@dataclass(frozen=True)
class _Kernels:
    """How corrections at lids and lips spread: ``[478, k]`` weights for k points; and the regions' shares ``[3, 478]``."""

    upper_lids: tuple[Floats, Floats]
    upper_lips: Floats
    lower_lips: Floats
    regions: Floats


@functools.cache
def _kernels() -> _Kernels:
    mean = FaceModel.builtin().mean[:, :2]

    def reach(points: tuple[int, ...]) -> Floats:
        return np.asarray(np.linalg.norm(mean[:, None] - mean[None, list(points)], axis=-1).min(1))

    def spread(points: tuple[int, ...], near: float, far: float, allowed: NDArray[np.bool_]) -> Floats:
        distance = np.linalg.norm(mean[:, None] - mean[None, list(points)], axis=-1)
        weight = np.exp(-((distance / near) ** 2) / 2) + 1e-12
        weight = weight / weight.sum(1, keepdims=True) * np.exp(-((distance.min(1, keepdims=True) / far) ** 2) / 2)
        weight[~allowed] = 0.0
        weight[list(points)] = np.eye(len(points))
        return np.asarray(weight)

    def between(corners: tuple[int, int]) -> Floats:
        """Height, at every landmark's place across, of the line from one corner to the other, level beyond them."""
        left, right = sorted(corners, key=lambda corner: float(mean[corner, 0]))
        return np.asarray(np.interp(mean[:, 0], mean[[left, right], 0], mean[[left, right], 1]))

    lids = []
    for eye in EYES:
        above = mean[:, 1] > between(eye.corners)
        above[[*eye.corners, *eye.lower, *eye.iris_points]] = False
        lids.append(spread(eye.upper, 0.06, 0.07, above))
    middle = between(INNER_CORNERS)
    free = np.ones(len(mean), bool)
    free[[*INNER_CORNERS, *OUTER_CORNERS]] = False
    upper = spread(INNER_UPPER, 0.1, 0.16, free & (mean[:, 1] > middle))
    lower = spread(INNER_LOWER, 0.1, 0.22, free & (mean[:, 1] <= middle))
    upper[list(INNER_LOWER)] = 0.0
    lower[list(INNER_UPPER)] = 0.0
    regions = np.stack(
        [np.exp(-((reach(eye.outline) / _EYE_REACH) ** 2) / 2) for eye in EYES]
        + [np.exp(-((reach(LIPS) / _MOUTH_REACH) ** 2) / 2)]
    )
    return _Kernels((lids[0], lids[1]), upper, lower, regions / np.maximum(regions.sum(0), 1.0))


def _move(shapes: Floats, amount: Floats, kernel: Floats) -> Floats:
    """Raise the kernel's points by ``amount`` ``[n, k]``, and what lies around them with them."""
    moved = shapes.copy()
    moved[..., 1] += amount @ kernel.T
    return moved


def _open_lips(shapes: Floats, amount: Floats, kernels: _Kernels) -> Floats:
    return _move(_move(shapes, amount / 2, kernels.upper_lips), -amount / 2, kernels.lower_lips)


def _place_iris(shapes: Floats, driver: Floats, driver_neutral: Floats, neutral: Floats, eye: Eye) -> Floats:
    """Move the source's iris between the corners of its eye as the driver's moved from where it is at rest; its size stays."""
    border = neutral[list(eye.iris_points)] - neutral[eye.iris]
    at_rest = _iris_place(neutral[None], eye)
    place = at_rest + _iris_place(driver, eye) - _iris_place(driver_neutral[None], eye)
    # No eye looks beyond its corners, nor does any turn far without its lids.
    place[:, :2] = np.clip(place[:, :2], -0.42, 0.42)
    outer, inner = shapes[:, eye.outer], shapes[:, eye.inner]
    width = np.linalg.norm((outer - inner)[:, :2], axis=1)
    centre = (outer + inner) / 2 + place * width[:, None]
    centre[:, 2] = (outer + inner)[:, 2] / 2 + neutral[eye.iris, 2] - neutral[list(eye.corners), 2].mean()
    moved = shapes.copy()
    moved[:, list(eye.iris_points)] = centre[:, None] + border
    return moved


def _iris_place(shapes: Floats, eye: Eye) -> Floats:
    """Where the iris is from the middle between the corners, in widths of the eye: ``[n, 478, 3]`` -> ``[n, 3]``."""
    outer, inner = shapes[:, eye.outer], shapes[:, eye.inner]
    width = np.linalg.norm((outer - inner)[:, :2], axis=1)
    return np.asarray((shapes[:, eye.iris] - (outer + inner) / 2) / width[:, None])


def _smoothstep(values: Floats, low: float, high: float) -> Floats:
    share = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.asarray(share * share * (3 - 2 * share))


def _distance(shape: Floats, one: int, other: int) -> float:
    return float(np.linalg.norm(shape[one] - shape[other]))
