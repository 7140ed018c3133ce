"""Edits of the expression and the head pose, as a person writes them in a catalogue or a file; they act after retargeting.

{"curves": {"mouthSmileLeft": {"scale": 0.5}, "jawOpen": {"keyframes": [{"frame": 0, "value": 0}, {"frame": 24, "value": 0.6}]},
            "eyeBlink": {"freeze": 12}},
 "head_pose": {"yaw": 5}, "head_scale": 1.05, "mirror": false}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.catalogue_files import read_bounded
from schemas.names import suggestion
from schemas.problems import UsageError
from schemas.written import read_json, read_yaml

SIDED = (
    *("browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekRaiser", "cheekSquint", "eyeBlink", "eyeLookDown"),
    *("eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown"),
    *("mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer"),
)
"""Expressions with a left and a right."""

MIDDLE = (
    *("jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthPucker"),
    *("mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
)

_SPELLINGS = {
    **{name.lower(): name for name in (*SIDED, *MIDDLE)},
    **{f"{name}{long}".lower(): f"{name}_{side}" for name in SIDED for side, long in (("L", "Left"), ("R", "Right"))},
    **{f"{name}_{side}".lower(): f"{name}_{side}" for name in SIDED for side in "LR"},
}


MAXIMUM_EDITS_BYTES = 4 * 2**20

LARGEST_TURN = 60.0
"""Degrees that edits may add to an angle of the head: beyond, one portrait has nothing to show."""


class _Edit(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Keyframe(_Edit):
    frame: int = Field(ge=0, description="frame of the target")
    value: float


def _ascending(keyframes: tuple[Keyframe, ...]) -> tuple[Keyframe, ...]:
    frames = [keyframe.frame for keyframe in keyframes]
    if frames != sorted(set(frames)):
        raise ValueError("frames of keyframes must ascend, each given once")
    return keyframes


Keyframes = Annotated[tuple[Keyframe, ...], AfterValidator(_ascending)]


class Curve(_Edit):
    """What becomes of one expression's weight: ``scale * value + offset``, held between 0 and 1.

    The value is the target's own, that of one frame of the target (``freeze``), or drawn by keyframes.
    """

    keyframes: Keyframes = ()
    interpolation: Literal["smooth", "linear", "hold"] = "smooth"
    scale: float = Field(1.0, ge=-4, le=4)
    offset: float = Field(0.0, ge=-1, le=1)
    freeze: int | None = Field(None, ge=0, description="frame of the target whose value is kept throughout")

    @model_validator(mode="after")
    def _one_origin(self) -> Curve:
        if self.keyframes and self.freeze is not None:
            raise ValueError("give keyframes or freeze, not both")
        return self


class Angle(_Edit):
    """Degrees added to the head's own angle: a constant, or keyframes."""

    offset: float = Field(0.0, ge=-LARGEST_TURN, le=LARGEST_TURN)
    keyframes: Keyframes = ()
    interpolation: Literal["smooth", "linear", "hold"] = "smooth"

    @model_validator(mode="after")
    def _within_reach(self) -> Angle:
        beyond = [keyframe.frame for keyframe in self.keyframes if abs(keyframe.value + self.offset) > LARGEST_TURN]
        if beyond:
            raise ValueError(
                f"at frame {beyond[0]} keyframe and offset add more than {LARGEST_TURN:.0f} degrees, which no result could show"
            )
        return self


def _angle(value: object) -> object:
    return {"offset": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class HeadPose(_Edit):
    """Positive yaw turns the nose to the image right, positive pitch down, positive roll anticlockwise in the picture."""

    yaw: Angle = Angle()
    pitch: Angle = Angle()
    roll: Angle = Angle()

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        return {name: _angle(value) for name, value in values.items()} if isinstance(values, dict) else values


def canonical_name(name: str) -> str:
    """The one spelling of an expression's name; ``ValueError`` with the nearest where there is none."""
    if name.lower() not in _SPELLINGS:
        raise ValueError(f"{name!r} is no expression; {suggestion(name, (*SIDED, *MIDDLE))}")
    return _SPELLINGS[name.lower()]


class Edits(_Edit):
    """All edits of a job. Names of curves are ARKit's (``eyeBlinkLeft``, or ``eyeBlink_L``); without a side both are meant."""

    curves: dict[Annotated[str, AfterValidator(canonical_name)], Curve] = Field(default_factory=dict)
    head_pose: HeadPose = HeadPose()
    head_scale: float = Field(1.0, ge=0.5, le=2, description="size of the new head against what fits the body")
    mirror: bool = Field(False, description="swap the expression's left and right")

    def to_options(self) -> dict[str, Any]:
        """As JSON with nothing in it that is a default: equal edits have equal keys."""
        return self.model_dump(mode="json", exclude_defaults=True)


def read_edits(document: Mapping[str, Any] | None, where: str = "edits") -> Edits:
    """Edits from a document.

    Raises:
        UsageError: with every problem found, each with its place in the document.
    """
    problems = _named_twice(document or {}, where)
    edits = Edits()
    try:
        edits = Edits.model_validate(document or {})
    except ValidationError as error:
        problems += [f"{_place(where, item['loc'])}: {_complaint(item)}" for item in error.errors()]
    if problems:
        raise UsageError(
            [f"{problem.rstrip('.')}." for problem in problems], "Mend these places; docs/edits.md says what can be written."
        )
    return edits


def _named_twice(document: Mapping[str, Any], where: str) -> list[str]:
    """Curves given under two spellings of one name: which of them would count?"""
    curves = document.get("curves")
    spellings: dict[str, list[str]] = {}
    for name in curves if isinstance(curves, Mapping) else ():
        if isinstance(name, str) and name.lower() in _SPELLINGS:
            spellings.setdefault(_SPELLINGS[name.lower()], []).append(name)
    return [f"{where}.curves: {' and '.join(names)} are the same curve" for names in spellings.values() if len(names) > 1]


def _place(where: str, path: Iterable[object]) -> str:
    return ".".join([where, *(str(part) for part in path if part != "[key]")])


def _complaint(item: Mapping[str, Any]) -> str:
    return str(item["ctx"]["error"]) if item["type"] == "value_error" else str(item["msg"])


def load_edits(edits: str | None, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The edits of a job as a mapping: parsed from inline JSON, or read from the YAML or JSON file it names.

    Raises:
        UsageError: the text or file cannot be read or is no mapping.
    """
    if edits is None:
        return None
    inline = is_inline(edits)
    text = edits if inline else read_bounded(edits, dict(storage_options or {}), MAXIMUM_EDITS_BYTES, "file of edits")
    try:
        return parse_edits(text, "The inline object of edits" if inline else f"The file of edits {edits}")
    except ValueError as error:
        raise UsageError([f"{error}."]) from error


def parse_edits(text: str | bytes, name: str) -> dict[str, Any]:
    """Parse edits from JSON or YAML (of which JSON is a part); ``ValueError`` names what is wrong."""
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = read_json(decoded) if is_inline(decoded) else read_yaml(decoded)
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: bad JSON or UTF-8, a number of 5,000 digits
        raise ValueError(f"{name} cannot be read as a JSON or YAML object: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f'{name} must be an object with named entries, such as {{"curves": {{"mouthSmile": {{"scale": 0.5}}}}}}')
    return value


def is_inline(text: str) -> bool:
    """Whether edits are written in the cell itself; else it names a file."""
    return text.lstrip().startswith("{")


def interpolate(
    keyframes: Keyframes, frames: NDArray[np.integer], interpolation: Literal["smooth", "linear", "hold"]
) -> NDArray[np.float64]:
    """Values of keyframes at ``frames`` ``[n]``; before the first and after the last their values hold."""
    places = np.array([keyframe.frame for keyframe in keyframes], np.float64)
    values = np.array([keyframe.value for keyframe in keyframes], np.float64)
    if interpolation == "hold":
        return np.asarray(values[np.clip(np.searchsorted(places, frames, side="right") - 1, 0, len(values) - 1)])
    where = np.interp(np.asarray(frames, np.float64), places, np.arange(len(places), dtype=np.float64))
    left = np.minimum(np.floor(where).astype(int), max(len(values) - 2, 0))
    share = where - left
    if interpolation == "smooth":
        share = share * share * (3 - 2 * share)
    return np.asarray(values[left] + share * (values[np.minimum(left + 1, len(values) - 1)] - values[left]))
