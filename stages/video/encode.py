"""Write one closed group of pictures at a time, from decoded planes, so that segments can be joined without encoding again.

The bits depend on the frames and the settings alone: thread counts are fixed, instructions whose results hang on chance are not
used, and the encoder's own signature is removed.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from schemas.problems import MediaError
from stages.video.facts import StreamFacts
from stages.video.native import PLANES_OF_RGB, PlaneFormat, plane_format, planes
from stages.video.rotation import set_rotation

SEGMENT_NAME = "segment.mp4"
"""Name of the file that the stage ``encode`` writes for every chunk."""

ENCODER_THREADS = 2
"""Part of the result: with another number x264 may choose other bits."""

KEY_FRAME_SECONDS = 2.0

_ENCODERS = {"h264": "libx264", "hevc": "libx265"}


def _has_avx512() -> bool:
    """Whether the processor has AVX-512, which x264 then uses by itself; Linux tells, elsewhere OpenCV."""
    try:
        return " avx512f" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return cv2.checkHardwareSupport(13)  # cv::CPU_AVX_512F, a name that OpenCV's Python lacks


X264_INSTRUCTIONS = "asm=AVX2" if _has_avx512() else "asm=auto"
"""One of ``x264-params``. Its code for AVX-512 reads memory that nobody has written (macroblock trees of B frames): the bits then
differ from run to run. With AVX2 they are those that it makes of memory that is zero."""

# Supplemental information only says which encoder with which options wrote the stream.
_STRIP = {"h264": "filter_units=remove_types=6", "hevc": "filter_units=remove_types=39-40"}


def encoded_format(pixel_format: str, width: int, height: int) -> str:
    """The pixel format that a target's frames are encoded in.

    8 bits stay 8 bits, more become 10; 4:2:0, 4:2:2 and 4:4:4 stay what they are, except that a side which the chroma
    subsampling does not divide needs 4:4:4 (H.264 and HEVC crop in whole chroma samples), to which the chroma is repeated.
    Grey and everything that is not planar becomes 4:2:0 or 4:4:4.
    """
    layout = plane_format(pixel_format)
    if layout is None:
        return "yuv444p"
    depth = "10le" if layout.bits > 8 else ""
    sampling = "420" if layout.grey else {(1, 1): "420", (1, 0): "422"}.get((layout.shift_x, layout.shift_y), "444")
    if (sampling != "444" and width % 2) or (sampling == "420" and height % 2):
        sampling = "444"
    return f"yuv{sampling}p{depth}"


class SegmentWriter:
    """One segment: starts with an IDR picture, refers to nothing outside, keeps each frame's own timestamp.

    A context manager. Where its body raises, the unfinished file is removed.

    Args:
        path: an .mp4 file to be written.
        width, height: coded size.
        pixel_format: of the frames that will be written; ``encoded_format`` decides what is encoded.
        time_base: of the timestamps given to ``write``.
        frame_rate: nominal, for rate control and the distance of key frames.
        codec, crf, preset: of the encoder.
        color_range, color_space, color_primaries, color_transfer: tags, numbers of ITU-T H.273 (range: 1 limited, 2 full).
        sample_aspect_ratio: tag.
        rotation: clockwise display rotation written into the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        pixel_format: str,
        time_base: Fraction,
        frame_rate: Fraction,
        codec: Literal["h264", "hevc"] = "h264",
        crf: int = 17,
        preset: str = "veryfast",
        color_range: int = 0,
        color_space: int = 2,
        color_primaries: int = 2,
        color_transfer: int = 2,
        sample_aspect_ratio: Fraction = Fraction(1),
        rotation: int = 0,
    ) -> None:
        self.path = path
        self.frames = 0
        self._rotation = rotation
        self._width, self._height = width, height
        self._format = encoded_format(pixel_format, width, height)
        self._time_base = time_base
        self._first_pts: int | None = None
        self._last_pts = -1
        options = {"video_track_timescale": str(time_base.denominator), "fflags": "+bitexact"}
        self._container = av.open(str(path), "w", format="mp4", options=options)
        group = min(250, max(12, round(KEY_FRAME_SECONDS * frame_rate)))
        self._stream: VideoStream = self._container.add_stream(
            _ENCODERS[codec], rate=frame_rate, options=_encoder_options(codec, crf, preset, group)
        )
        stream, context = self._stream, self._stream.codec_context
        stream.width, stream.height, stream.pix_fmt = width, height, self._format
        context.time_base = time_base
        context.sample_aspect_ratio = sample_aspect_ratio
        context.color_range = 2 if pixel_format.startswith(("yuvj", "yuvaj")) else color_range
        context.colorspace = color_space
        context.color_primaries = color_primaries
        context.color_trc = color_transfer
        if codec == "hevc":
            context.codec_tag = "hvc1"  # QuickTime plays no other
        self._filter = BitStreamFilterContext(_STRIP[codec], codec)

    @classmethod
    def for_clip(
        cls, path: Path, facts: StreamFacts, *, codec: Literal["h264", "hevc"] = "h264", crf: int = 17, preset: str = "veryfast"
    ) -> SegmentWriter:
        """A writer for native frames of a clip: same size, depth, time base, colour tags, aspect ratio and rotation."""
        matrix, color_range = facts.color_space, facts.color_range
        if plane_format(facts.pixel_format) is None:
            matrix, color_range = PLANES_OF_RGB
        return cls(
            path,
            width=facts.coded_width,
            height=facts.coded_height,
            pixel_format=facts.pixel_format,
            time_base=Fraction(facts.time_base),
            frame_rate=facts.frame_rate,
            codec=codec,
            crf=crf,
            preset=preset,
            color_range=color_range,
            color_space=matrix,
            color_primaries=facts.color_primaries,
            color_transfer=facts.color_transfer,
            sample_aspect_ratio=Fraction(facts.sample_aspect_ratio),
            rotation=facts.rotation,
        )

    def write(self, frame: VideoFrame, pts: int) -> None:
        """Encode a frame in a planar format; timestamps must ascend, in the writer's time base."""
        if self._first_pts is None:
            self._first_pts = pts
        elif pts <= self._last_pts:
            raise ValueError(f"timestamp {pts} does not follow {self._last_pts}")
        self._last_pts = pts
        prepared = to_format(frame, self._format)
        # Segments count from zero: the join gives every packet its place again.
        prepared.pts, prepared.time_base = pts - self._first_pts, self._time_base
        self._mux(prepared)
        self.frames += 1

    def close(self) -> None:
        """Flush the encoder and finish the file."""
        self._mux(None)
        for packet in self._filter.filter(None):
            packet.stream = self._stream
            self._container.mux(packet)
        self._container.close()
        if self._rotation:
            set_rotation(self.path, self._rotation, self._width, self._height)

    def _mux(self, frame: VideoFrame | None) -> None:
        for encoded in self._stream.encode(frame):
            for packet in self._filter.filter(encoded):
                packet.stream = self._stream
                self._container.mux(packet)

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        self._container.close()
        self.path.unlink(missing_ok=True)


def to_format(frame: VideoFrame, pixel_format: str) -> VideoFrame:
    """A copy of a planar frame in another depth or chroma sampling, by repeating samples and shifting bits only.

    Codes are never converted between ranges or matrices, so that what was full range stays full range under a ``yuvj`` name or
    not. Chroma is repeated where the new format has more of it.
    """
    source, target = plane_format(frame.format.name), plane_format(pixel_format)
    if source is None or target is None:
        raise MediaError(
            "unsupported", f"{frame.format.name} cannot be written as {pixel_format}.", "Convert the video to yuv420p."
        )
    copy = VideoFrame(frame.width, frame.height, pixel_format)
    views, inputs = planes(copy), planes(frame)
    for channel, view in enumerate(views):
        if channel and source.grey:
            view[...] = 1 << (target.bits - 1)
            continue
        values = inputs[channel]
        if channel:
            values = _repeat_chroma(values, source, target, view.shape)
        view[...] = _shift_depth(values, source.bits, target.bits)
    return copy


def _repeat_chroma(values: np.ndarray, source: PlaneFormat, target: PlaneFormat, shape: tuple[int, ...]) -> np.ndarray:
    step_x, step_y = 1 << (source.shift_x - target.shift_x), 1 << (source.shift_y - target.shift_y)
    if step_x == step_y == 1:
        return values
    size = (values.shape[1] * step_x, values.shape[0] * step_y)
    return cv2.resize(values, size, interpolation=cv2.INTER_NEAREST)[: shape[0], : shape[1]]


def _shift_depth(values: np.ndarray, bits: int, wanted: int) -> np.ndarray:
    if bits == wanted:
        return values
    if bits < wanted:
        return values.astype(np.uint16) << (wanted - bits)
    drop = bits - wanted
    rounded = (values.astype(np.uint32) + (1 << (drop - 1))) >> drop
    return np.minimum(rounded, (1 << wanted) - 1)


def _encoder_options(codec: str, crf: int, preset: str, group: int) -> dict[str, str]:
    options = {"crf": str(crf), "preset": preset, "g": str(group), "threads": str(ENCODER_THREADS)}
    if codec == "h264":
        options["x264-params"] = f"open-gop=0:lookahead-threads=1:scenecut=40:sliced-threads=0:keyint={group}:{X264_INSTRUCTIONS}"
    else:
        options["x265-params"] = f"open-gop=0:frame-threads=1:pools={ENCODER_THREADS}:log-level=none:info=0:keyint={group}"
    return options
