"""Stage ``encode``: lays the generated crops over the target's frames and encodes them as one closed segment.

Composited frames are never stored: they stream from the decoder through the composite into the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from schemas.parameters import EncodeParameters
from schemas.tables import FOREGROUND_BLOCKS
from stages.composite import compose_window, exposure_curves, feathered_region, region_window
from stages.contract import Input, Scope, Stage, Work
from stages.video.decode import open_clip
from stages.video.encode import SEGMENT_NAME, SegmentWriter
from stages.video.facts import StreamFacts
from stages.video.native import NativeWindow, native_frames, own_copy
from storage.artifacts import PictureReader
from storage.tables import array


@dataclass(frozen=True)
class CompositedFrame:
    """A frame ready for the encoder.

    Attributes:
        frame: its number in the clip.
        picture: in the target's pixel format and coded orientation.
        region: bool [height, width] in display orientation, the pixels that may differ from the target's; None where none does.
    """

    frame: int
    picture: VideoFrame
    region: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Overlay:
    """What the composite needs to know of the frames of a chunk, one row per frame.

    Attributes:
        frames: int [n], numbers in the clip.
        generated: bool [n].
        crops: float [n, 3], centre x, centre y, side, frame pixels.
        regions: bool [n, 256], blocks that may replace the target's pixels.
        curves: float64 [n, 6], from ``stages.composite.exposure_curves``; None leaves colours as they are.
    """

    frames: NDArray[np.integer]
    generated: NDArray[np.bool_]
    crops: NDArray[np.floating]
    regions: NDArray[np.bool_]
    curves: NDArray[np.float64] | None = None


def composited(
    frames: Iterator[tuple[int, VideoFrame]], overlay: Overlay, pictures: PictureReader, rotation: int, feather: float
) -> Iterator[CompositedFrame]:
    """Lay generated crops over decoded frames, one at a time.

    Args:
        frames: of the target, from ``stages.video.native.native_frames``.
        overlay: rows for these frames.
        pictures: the generated crops.
        rotation: of the display, clockwise, degrees.
        feather: width of the region's soft border, share of the crop's side.
    """
    rows = {int(frame): row for row, frame in enumerate(overlay.frames)}
    for number, frame in frames:
        row = rows[number]
        if not overlay.generated[row]:
            yield CompositedFrame(number, frame, None)
            continue
        yield _composite(number, frame, overlay, row, pictures.read(number), rotation, feather)


def _composite(
    number: int, frame: VideoFrame, overlay: Overlay, row: int, generated: NDArray[np.uint8], rotation: int, feather: float
) -> CompositedFrame:
    width, height = (frame.height, frame.width) if rotation in (90, 270) else (frame.width, frame.height)
    crop = overlay.crops[row]
    weight = feathered_region(overlay.regions[row], generated.shape[0], feather, _beyond(crop, width, height))
    window = region_window(crop, weight, width, height)
    if window.empty:
        return CompositedFrame(number, frame, None)
    native = NativeWindow(frame, rotation)
    target = native.extract(frame, window.left, window.top, window.right, window.bottom)
    curve = None if overlay.curves is None else overlay.curves[row]
    composed, region = compose_window(target, window, generated, crop, weight, curve=curve)
    result = own_copy(frame)
    native.paste(result, composed, region, window.left, window.top)
    touched = np.zeros((height, width), bool)
    touched[window.top : window.bottom, window.left : window.right] = region
    return CompositedFrame(number, result, touched)


def _beyond(crop: NDArray[np.floating], width: int, height: int) -> tuple[bool, bool, bool, bool]:
    """Whether the crop's left, top, right and bottom edges lie outside the frame: no feather is wanted there."""
    centre_x, centre_y, half = float(crop[0]), float(crop[1]), float(crop[2]) / 2
    return centre_x - half <= 0, centre_y - half <= 0, centre_x + half >= width, centre_y + half >= height


def target_frames(path: Path, facts: StreamFacts, frames: range) -> Iterator[tuple[int, VideoFrame]]:
    """Frames in their coded format; a still picture as one frame of full chroma resolution."""
    if facts.kind == "video":
        yield from native_frames(path, frames)
        return
    with open_clip(path) as clip:
        for number, picture in clip.iterate(frames):
            yield number, VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p")


class Encode(Stage):
    """Composite and encode one chunk."""

    name = "encode"
    version = 2
    scope = Scope.JOB_CHUNK
    parameters = EncodeParameters
    inputs = (
        Input("ingest", "target"),
        Input("track", "target"),
        Input("render", "job", "same"),
        Input("render", "job", "near"),
    )
    media = ("target",)

    def run(self, work: Work) -> None:
        """Writes the file ``segment.mp4``; its facts count frames in which the head was generated."""
        parameters, chunk = work.parameters, work.chunk
        assert isinstance(parameters, EncodeParameters)
        assert chunk is not None
        ingest = work.inputs.one("ingest", "target")
        stream = ingest.facts["stream"]
        assert isinstance(stream, dict)
        facts = StreamFacts.from_dict(stream)
        times = ingest.table("frames", columns=["frame", "pts"], frames=chunk.frames)
        pts = dict(zip(array(times, "frame").tolist(), array(times, "pts").tolist(), strict=True))
        overlay = _overlay(work, parameters)
        pictures = work.inputs.one("render", "job").pictures("crops")
        path = work.output.file(SEGMENT_NAME)
        decoded = target_frames(work.media["target"], facts, chunk.frames)
        with SegmentWriter.for_clip(path, facts, codec=parameters.codec, crf=parameters.crf, preset=parameters.preset) as writer:
            for frame in composited(decoded, overlay, pictures, facts.rotation, parameters.feather):
                writer.write(frame.picture, pts[frame.frame])
                work.progress(1)
        work.output.facts.update(frames=writer.frames, generated=int(overlay.generated.sum()), start=chunk.start)


def _overlay(work: Work, parameters: EncodeParameters) -> Overlay:
    """The chunk's rows; exposure is smoothed over the neighbouring chunks too, so that it does not jump where chunks meet."""
    chunk = work.chunk
    assert chunk is not None
    rendered = work.inputs.one("render", "job").table("rendered", columns=["frame", "generated", "region"])
    subject = work.inputs.table("track", "subject", "target", columns=["frame", "shot", "crop"])
    everywhere, frames = array(subject, "frame"), array(rendered, "frame")
    curves = None
    if parameters.match_exposure:
        columns = ["frame", "target_statistics", "generated_statistics"]
        table = work.inputs.table("render", "rendered", "job", columns=columns)
        order = np.searchsorted(everywhere, array(table, "frame"))
        curves = exposure_curves(
            array(table, "target_statistics"),
            array(table, "generated_statistics"),
            array(subject, "shot")[order],
            parameters.exposure_smoothing_frames,
        )[np.searchsorted(array(table, "frame"), frames)]
    return Overlay(
        frames,
        array(rendered, "generated").astype(bool),
        array(subject, "crop")[np.searchsorted(everywhere, frames)],
        array(rendered, "region").reshape(-1, FOREGROUND_BLOCKS**2).astype(bool),
        curves,
    )
