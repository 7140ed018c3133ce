"""Parameters of the stages: everything that may change what a stage writes, and nothing else.

Each model is part of its stage's key. Device, worker count, batch size and paths are not parameters (they live in
``schemas.configuration``): they must not change a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""That networks compute in; ``auto`` leaves it to the device."""


_KEY = "key"


def as_in_keys(parameters: BaseModel) -> dict[str, Any]:
    """Parameters as keys hold them, which must not change when fields are added: JSON values."""
    return parameters.model_dump(mode="json", context=_KEY)


class StageParameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IngestParameters(StageParameters):
    chunk_frames: int = Field(120, ge=1, le=10_000, description="longest run of frames of one shot that is resumed as a unit")
    shot_threshold: float = Field(0.45, gt=0, le=1, description="histogram distance between frames that counts as a cut")


class LandmarkParameters(StageParameters):
    detection_interval: int = Field(10, ge=1, description="frames between full-range face detections of the whole frame")
    minimum_score: float = Field(0.5, ge=0, le=1, description="lowest face detection score")
    maximum_people: int = Field(4, ge=1, le=16)
    shoulder_interval: int = Field(
        15, ge=1, description="frames between body pose detections; shoulders between are interpolated"
    )


class TrackParameters(StageParameters):
    subject: str = Field("largest", description="'largest', a number (0 is the largest, 1 the next), or a picture of the face")
    crop_scale: float = Field(2.6, gt=1, description="side of the crop in heights of the face (forehead to chin)")
    smoothing_seconds: float = Field(0.4, ge=0, description="of the crop's path")
    longest_gap_seconds: float = Field(0.4, ge=0, description="a loss of the face up to this long is bridged")


class FitParameters(StageParameters):
    identity_frames: int = Field(128, ge=1, description="frames, evenly spread, from which the identity is fitted")
    smoothing_frames: float = Field(
        0.0, ge=0, description="temporal smoothing of pose and expression; 0 keeps every frame as it is"
    )


class MaskParameters(StageParameters):
    crop_size: int = Field(512, ge=128, le=1024, multiple_of=32)
    hair: Literal["auto", "network", "colour"] = Field("auto", description="'auto' takes the hair network where it is registered")
    dilation: float = Field(
        0.02,
        ge=0,
        le=0.2,
        description="of the person mask before blocks are drawn, share of the crop's side; `inspect` shows them",
    )


class InpaintParameters(StageParameters):
    method: Literal["auto", "lama", "opencv"] = Field("auto", description="for what no frame of the shot shows")
    camera: Literal["auto", "still", "moving"] = "auto"


class RetargetParameters(StageParameters):
    method: Literal["joint", "paper"] = Field(
        "joint", description="how faces at rest are found: 'joint' fits identity and expressions together; 'paper' is Neu-Exp"
    )
    neutralise: bool = Field(True, description="remove the source's (and the driver's neutral frame's) own expression")
    scale_aware: bool = Field(True, description="scale expression deltas by the ratio of feature sizes")
    steadiness: float = Field(1.0, ge=0, le=5, description="frames over which the detector's tremor is averaged; motion passes")
    crop_size: int = Field(512, ge=128, le=1024, multiple_of=32, description="of the aligned landmarks; the same as of the masks")


class DiffusionParameters(BaseModel):
    """How the diffusion renderer samples; no part of the key where another renderer works. The seed is the job's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str | None = Field(None, description="name of the registered pipeline; default: `headswap-` and the profile")
    solver: Literal["ddim", "dpm++", "unipc"] = "ddim"
    steps: int = Field(25, ge=1, le=1000, description="of the solver")
    guidance_scale: float = Field(3.5, ge=1, le=50, description="of classifier-free guidance; 1 is none, at half the cost")
    guidance_from: float = Field(0.0, ge=0, le=1, description="where on the noise schedule guidance begins: 0 is clean")
    guidance_until: float = Field(1.0, ge=0, le=1, description="where it ends: 1 is noise; outside a step costs half")
    window: int = Field(16, ge=1, le=32, description="frames that the motion module sees at once")
    overlap: int = Field(4, ge=0, le=31, description="frames that neighbouring windows share; less than `window`")
    blend: Literal["step", "end"] = Field(
        "step", description="windows are brought together at every step, or each alone and faded into each other"
    )
    context: int = Field(1, ge=0, le=8, description="windows computed beyond a chunk on either side, where blended at every step")
    precision: Precision = Field(
        "auto", description="`auto` is bfloat16 where every device of the run is a GPU that has it, else float32"
    )
    shared_noise: float = Field(
        0.0, ge=0, le=1, description="share of the noise that all frames have in common: steadier, where a pipeline allows it"
    )
    compile: bool = Field(False, description="compile the networks: minutes in each process at first, then faster")

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, dump: SerializerFunctionWrapHandler, asked: SerializationInfo) -> dict[str, Any]:
        """In keys, fields that came after stores were filled are left out at their default."""
        told: dict[str, Any] = dump(self)
        return {name: value for name, value in told.items() if value or name not in _CAME_LATER or asked.context != _KEY}

    @classmethod
    def wanted_by_a_pipeline(cls, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What a pipeline says about how it is sampled, checked.

        Raises:
            ValueError: a name that is no pipeline's to say, or values that are out of bounds or contradict each other.
        """
        strange = sorted(wanted.keys() - WANTED_BY_PIPELINES)
        if strange:
            permitted = ", ".join(sorted(WANTED_BY_PIPELINES))
            raise ValueError(f"{', '.join(map(repr, strange))[:200]}: not for a pipeline to say; it may say {permitted}")
        return cls._checked(wanted).model_dump(include=set(wanted))

    def or_as_wanted(self, wanted: Mapping[str, Any]) -> DiffusionParameters:
        """These, and what nobody has set as a pipeline wants it.

        Args:
            wanted: values by name, of ``WANTED_BY_PIPELINES``.

        Raises:
            ValueError: together they contradict each other.
        """
        unset = {name: value for name, value in wanted.items() if name not in self.model_fields_set}
        return self._checked({**{name: getattr(self, name) for name in self.model_fields_set}, **unset})

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> DiffusionParameters:
        try:
            found = cls.model_validate(dict(values))
        except ValidationError as error:
            said = ((".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors())
            raise ValueError("; ".join(f"{where}: {what}" if where else what for where, what in said)) from error
        found._require_room_in_windows()
        return found

    @model_validator(mode="after")
    def _is_consistent(self) -> DiffusionParameters:
        if self.guidance_from > self.guidance_until:
            raise ValueError(f"guidance_from {self.guidance_from} lies above guidance_until {self.guidance_until}")
        # Where only one of the two was given, a pipeline may bring the other one: ``or_as_wanted`` looks at what comes of it.
        if self.model_fields_set >= {"window", "overlap"}:
            self._require_room_in_windows()
        return self

    def _require_room_in_windows(self) -> None:
        if self.overlap >= self.window:
            raise ValueError(f"overlap {self.overlap} must be less than window {self.window}")


_CAME_LATER = ("compile", "shared_noise")

WANTED_BY_PIPELINES = frozenset(
    {"solver", "steps", "guidance_scale", "guidance_from", "guidance_until", "window", "overlap", "shared_noise"}
)
"""What a pipeline may say about how it is sampled: what its training decides, and no more."""


class RenderParameters(StageParameters):
    renderer: Literal["warp", "diffusion"] = "warp"
    match_neck: bool = Field(True, description="shade the neck that stays visible towards the new head's skin")
    diffusion: DiffusionParameters = DiffusionParameters()


class EncodeParameters(StageParameters):
    """Composite and encode: composited frames are never stored, they stream into the encoder."""

    feather: float = Field(0.03, ge=0, le=0.2, description="width of the region's soft border, share of the crop's side")
    match_exposure: bool = Field(True, description="match the generated crop to the target's ring around the region")
    exposure_smoothing_frames: float = Field(5.0, ge=0)
    codec: Literal["h264", "hevc"] = "h264"
    crf: int = Field(17, ge=0, le=51)
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = "veryfast"


class AssembleParameters(StageParameters):
    container: Literal["mp4", "mkv", "mov"] = Field("mp4", description="of results whose name is not given with a suffix")


class MeasureParameters(StageParameters):
    every: int = Field(1, ge=1, le=100, description="measure every n-th frame of a shot; values between are left empty")
    landmark_flag: float = Field(0.12, gt=0, description="landmark error above which a frame is flagged")
    pose_flag: float = Field(12.0, gt=0, description="pose error in degrees above which a frame is flagged")
