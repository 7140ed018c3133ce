"""Builders of small videos and pictures for tests: odd sizes, variable frame rate, rotation, 10 bits, sound, damage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from stages.video.rotation import set_rotation


def moving_picture(frame: int, width: int = 160, height: int = 120, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]: a smooth gradient with a bright square that moves 3 pixels a frame: every frame differs."""
    y, x = np.mgrid[:height, :width]
    phase = seed * 37
    picture = np.stack(
        [60 + 100 * x / width, 60 + 100 * y / height, 110 + 60 * np.sin((x + y + phase) / 25 + frame / 9)], axis=-1
    ).astype(np.uint8)
    left = (8 + 3 * frame) % max(1, width - 24)
    top = height // 3
    picture[top : top + 20, left : left + 20] = (230, 40 + 20 * (seed % 8), 40)
    return picture


def moving_pictures(count: int, width: int = 160, height: int = 120, seed: int = 0) -> list[np.ndarray]:
    return [moving_picture(frame, width, height, seed) for frame in range(count)]


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: Fraction | int = 25,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    audio: bool | float = False,
    rotation: int = 0,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    color_space: int | None = None,
    color_range: int | None = None,
    sample_aspect_ratio: Fraction | None = None,
) -> Path:
    """Write a video; the container follows the suffix.

    Args:
        path: the file to write; returned.
        frames: uint8 [h, w, 3] RGB in *coded* orientation. libx264 refuses odd sizes in yuv420p; "mpeg4" takes them.
        fps: used where there are no ``pts``.
        pts: timestamps of the frames in ``time_base`` (1/1000 by default where pts are given): variable frame rate.
        audio: True for a 440 Hz AAC tone as long as the video, or its length in seconds.
        rotation: clockwise display rotation to be written into an MP4 or MOV: 0, 90, 180 or 270.
        options: of the encoder, such as ``{"g": "8"}``.
        color_space: 1 BT.709, 5 or 6 BT.601, 9 BT.2020; color_range: 1 limited, 2 full.
    """
    path = Path(path)
    pictures = list(frames)
    height, width = pictures[0].shape[:2]
    rate = Fraction(fps)
    base = time_base or (Fraction(1, 1000) if pts is not None else 1 / rate)
    times = list(pts) if pts is not None else [round(k / rate / base) for k in range(len(pictures))]
    settings = {"video_track_timescale": str(base.denominator)} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options={**settings, **(container_options or {})}) as container:
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.time_base = base
        if color_space is not None:
            context.colorspace = color_space
        if color_range is not None:
            context.color_range = color_range
        if sample_aspect_ratio is not None:
            context.sample_aspect_ratio = sample_aspect_ratio
        sound = container.add_stream("aac", rate=44100, layout="mono") if audio else None
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(
                format=pixel_format,
                dst_colorspace=color_space,
                dst_color_range=color_range,
            )
            frame.pts, frame.time_base = time, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            seconds = float(audio) if audio is not True else float((times[-1] - times[0]) * base + 1 / rate)
            _write_tone(container, sound, seconds)
    if rotation:
        set_rotation(path, rotation, width, height)
    return path


def _write_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    samples = np.sin(2 * np.pi * 440 / 44100 * np.arange(int(seconds * 44100))).astype(np.float32) * 0.3
    for start in range(0, len(samples), 1024):
        block = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = 44100, start, Fraction(1, 44100)
        container.mux(stream.encode(block))
    container.mux(stream.encode(None))


def cut_off(path: Path, output: Path, share: float = 0.6) -> Path:
    """The first part of a file's bytes. Write MP4 with ``container_options={"movflags": "faststart"}`` to keep it readable."""
    data = path.read_bytes()
    output.write_bytes(data[: int(len(data) * share)])
    return output
