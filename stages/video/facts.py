"""What is known about a clip before anything is done to it, and the limits that a clip must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from schemas.problems import MediaError


@dataclass(frozen=True)
class Limits:
    """Bounds on one clip. What is over a limit is refused with ``MediaError("too_large")`` before it is decoded.

    The defaults admit everything that settings can admit: ``ingest`` has refused what is over a run's own limits, and who
    reads the clip after it must not refuse it again. What no ``ingest`` has seen is read with the run's limits.
    """

    pixels: int = 2**32
    """Of one picture or frame."""
    frames: int = 2**62
    seconds: float = math.inf
    file_bytes: int = 2**62


@dataclass(frozen=True)
class AudioFacts:
    """One audio stream as found in the file. It is copied, never decoded."""

    index: int
    codec: str
    rate: int
    channels: int
    packets: int


@dataclass(frozen=True)
class StreamFacts:
    """The picture stream of a clip. All fields are plain JSON values; fractions are strings such as ``"30000/1001"``.

    ``width`` and ``height`` are those of the display orientation: coded pixels after ``rotation``, which is clockwise, in
    degrees. Pixels are never stretched to ``sample_aspect_ratio``: it is passed on to the result.
    """

    kind: Literal["video", "picture"]
    codec: str
    container: str
    coded_width: int
    coded_height: int
    width: int
    height: int
    rotation: int
    fps: str
    time_base: str
    pixel_format: str
    bit_depth: int
    color_range: int
    color_space: int
    color_primaries: int
    color_transfer: int
    sample_aspect_ratio: str
    frames: int
    seconds: float
    start_pts: int
    variable_frame_rate: bool
    truncated: bool
    decoder: str
    audio: tuple[AudioFacts, ...] = ()
    ignored_streams: tuple[str, ...] = ()
    """Kinds of streams that are neither the picture nor audio (subtitles, data): they are not in the result."""
    notes: tuple[str, ...] = field(default=())
    """Sentences for the report: a file cut off, a damaged start."""

    @property
    def frame_rate(self) -> Fraction:
        return Fraction(self.fps)

    def to_dict(self) -> dict[str, Any]:
        """JSON document, for an artifact's facts."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> StreamFacts:
        values = dict(document)
        values["audio"] = tuple(AudioFacts(**entry) for entry in values["audio"])
        values["ignored_streams"] = tuple(values["ignored_streams"])
        values["notes"] = tuple(values["notes"])
        return cls(**values)


def check_file(path: Path, limits: Limits) -> None:
    """Raise ``MediaError`` where the file is missing, not a file, empty, unreadable, or larger than the limit."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise MediaError("file_missing", f"{path} does not exist.", "Correct the path, or put the file there.") from None
    except OSError as error:
        raise MediaError(
            "file_unreadable", f"{path} cannot be read: {error.strerror}.", "Check the file's permissions."
        ) from error
    if not path.is_file():
        raise MediaError("file_missing", f"{path} is not a file.", "Give the path of a video or a picture.")
    if size == 0:
        raise MediaError("file_empty", f"{path} is empty.", "Copy or download the file again.")
    if size > limits.file_bytes:
        raise too_large(path, f"has {size:,} bytes; the limit is {limits.file_bytes:,}", "limits.max_bytes")


def check_pixels(path: Path, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise too_large(path, f"has {width}x{height} pixels; the limit is {limits.pixels:,} pixels", "limits.max_pixels")


def too_large(path: Path, reason: str, setting: str) -> MediaError:
    """``setting``: by whose name a person can raise the limit."""
    return MediaError("too_large", f"{path} {reason}.", f"Scale or cut it, or raise {setting}.")
