"""Folders of rendered people: by which head model they were made, which clips are complete, how videos are written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from schemas.problems import UsageError
from stages.durable import write_whole
from stages.video.encode import X264_INSTRUCTIONS
from storage.keys import digest_file

HEAD_MODEL = "head_model.digest"
"""In a folder of renders: of the head model with which everything in it was made."""


def take_folder(folder: Path, head_model: Path, option: str = "--out") -> None:
    """Make a folder for renders, and see that what is kept there was made with the same head model.

    Args:
        option: of the command, with which another folder is given.

    Raises:
        UsageError: it cannot be written, or holds what was made with another head model.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / HEAD_MODEL
        if not head_model.is_file():
            return  # told by whoever reads it
        digest = digest_file(head_model)
        if not mark.is_file():
            write_whole(mark, digest + "\n")
        known = mark.read_text().strip()
    except OSError as error:
        raise UsageError(
            [f"The folder {folder} cannot be used: {error}."], f"Give {option} a folder that can be written."
        ) from error
    if known != digest:
        raise UsageError(
            [f"The folder {folder} holds renders of another head model than {head_model}."], f"Give {option} another folder."
        )


def is_described(description: Path, recipe: str) -> bool:
    """Whether a clip's JSON file says that it is complete and made by this recipe; a file that cannot be read says nothing."""
    try:
        told = json.loads(description.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("recipe") == recipe


def clear_clip(description: Path) -> None:
    """Remove the folder of a clip: another order's frames, or half a clip.

    What describes it goes first, so that whoever is stopped in the midst of this leaves nothing that passes for complete.
    """
    description.unlink(missing_ok=True)
    if description.parent.exists():
        shutil.rmtree(description.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that appears at once and whole, whenever the process ends."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


class VideoFile:
    """H.264 with BT.709 colour, nearly without loss; one thread, so that the file is the same on machines with more cores."""

    def __init__(self, path: Path, size: int, rate: int) -> None:
        self._container = av.open(str(path), "w", options={"movflags": "faststart"})
        options = {"crf": "14", "preset": "veryfast", "threads": "1", "x264-params": X264_INSTRUCTIONS}
        self._stream = self._container.add_stream("libx264", rate=Fraction(rate), options=options)
        self._stream.width = self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.color_range = context.colorspace = context.color_primaries = context.color_trc = 1

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Append a frame, uint8 [size, size, 3], RGB."""
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range=1
        )
        frame.colorspace = frame.color_range = frame.color_primaries = frame.color_trc = 1
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._container.mux(self._stream.encode())
        self._container.close()
