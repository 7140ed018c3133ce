"""Frames as they are coded: the planes, pixel format and orientation of the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from schemas.problems import MediaError
from stages.video.facts import Limits
from stages.video.index import VideoIndex, decode_packets, open_container, picture_stream, video_index


def frame_at(index: VideoIndex, pts: int) -> int | None:
    """Number of the frame with this timestamp, None where there is none."""
    position = int(np.searchsorted(index.pts, pts))
    return position if position < index.frames and index.pts[position] == pts else None


def native_frames(path: Path, frames: range | None = None, *, limits: Limits | None = None) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames in the coded pixel format and orientation, with their exact numbers, in ascending order.

    A frame that is damaged in the file is replaced by the one before it (the next one at the start), so that every number
    asked for is there. Memory is that of a few frames.
    """
    index = video_index(Path(path), limits)
    wanted = frames if frames is not None else range(index.frames)
    if not len(wanted):
        return
    if wanted.start < 0 or wanted.stop > index.frames or wanted.step != 1:
        raise IndexError(f"{path} has frames 0 to {index.frames - 1}, not {wanted}")
    yield from _decode_run(Path(path), index, wanted)


def _decode_run(path: Path, index: VideoIndex, wanted: range) -> Iterator[tuple[int, VideoFrame]]:
    with open_container(path) as container:
        stream = picture_stream(container, path)
        upcoming = wanted.start
        previous: VideoFrame | None = None
        for frame in _from_frame(path, index, wanted.start, container, stream):
            number = frame_at(index, frame.pts) if frame.pts is not None else None
            if number is None or number < upcoming:
                previous = frame if number is not None else previous
                continue
            while upcoming < min(number, wanted.stop):  # damaged: repeat the neighbour
                yield upcoming, previous if previous is not None else frame
                upcoming += 1
            if upcoming >= wanted.stop:
                return
            yield number, frame
            previous = frame
            upcoming = number + 1
            if upcoming >= wanted.stop:
                return
        if previous is None:
            raise MediaError(
                "damaged", f"Frames {wanted.start} to {wanted.stop - 1} of {path} cannot be decoded.", "Copy the file again."
            )
        for number in range(upcoming, wanted.stop):
            yield number, previous


def _from_frame(
    path: Path, index: VideoIndex, first: int, container: InputContainer, stream: VideoStream
) -> Iterator[VideoFrame]:
    """Pictures from a key frame at or before ``first`` on; from an earlier one where the decoder started too late."""
    target = int(index.pts[first])
    candidates = [int(key) for key in index.keys[index.keys <= target][-2:][::-1] if key > index.pts[0]]
    for key in candidates:
        try:
            container.seek(key, stream=stream, backward=True)
        except av.error.FFmpegError:
            break
        frames = decode_packets(container, stream)
        start = next(frames, None)
        if start is not None and start.pts is not None and start.pts <= target:
            yield start
            yield from frames
            return
    with open_container(path) as fresh:
        yield from decode_packets(fresh, picture_stream(fresh, path))
