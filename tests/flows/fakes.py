"""Stages that count frames instead of looking at them: the whole machinery without a picture."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from schemas.parameters import (
    AssembleParameters,
    IngestParameters,
    LandmarkParameters,
    MeasureParameters,
    RenderParameters,
    RetargetParameters,
    TrackParameters,
)
from schemas.problems import HeadswapError, MediaError
from schemas.tables import CHUNKS
from stages.contract import Input, Scope, Stage, Work, split_shots

executions: list[str] = []
"""What ran in this process, as ``stage:file or job``."""
trouble: dict[str, list[Exception]] = {}
"""Failures to come, by stage."""
meddling: dict[str, Callable[[], object]] = {}
"""What somebody else does, once, while a stage works."""


def note(stage: Stage, work: Work, name: str = "") -> None:
    executions.append(f"{stage.name}:{name or next(iter(work.media.values()), Path('-')).name}")
    if stage.name in meddling:
        meddling.pop(stage.name)()
    if trouble.get(stage.name):
        raise trouble[stage.name].pop(0)


class Ingest(Stage):
    name, version, scope, parameters = "ingest", 1, Scope.CLIP, IngestParameters
    media: ClassVar = ("clip",)
    tables: ClassVar = (CHUNKS,)

    def run(self, work: Work) -> None:
        note(self, work)
        try:
            frames = json.loads(work.media["clip"].read_text())["frames"]
        except (ValueError, KeyError) as error:
            raise MediaError("not_media", f"{work.media['clip'].name} is no video.", "Give a video.") from error
        assert isinstance(work.parameters, IngestParameters)
        chunks = split_shots([(0, frames)], work.parameters.chunk_frames)
        columns = {"chunk": [], "shot": [], "start": [], "stop": []}
        for chunk in chunks:
            for column, value in zip(columns, (chunk.index, chunk.shot, chunk.start, chunk.stop), strict=True):
                columns[column].append(value)
        work.output.write_table(CHUNKS, columns)
        work.output.facts["name"] = work.media["clip"].name


class Landmarks(Stage):
    name, version, scope, parameters = "landmarks", 1, Scope.CLIP_CHUNK, LandmarkParameters
    media: ClassVar = ("clip",)
    inputs: ClassVar = (Input("ingest"),)

    def run(self, work: Work) -> None:
        note(self, work)
        assert work.chunk is not None
        work.output.facts["frames"] = list(work.chunk.frames)
        work.progress(len(work.chunk.frames))


class Track(Stage):
    name, version, scope, parameters = "track", 1, Scope.CLIP, TrackParameters
    inputs: ClassVar = (Input("ingest"), Input("landmarks"))

    def run(self, work: Work) -> None:
        note(self, work)
        assert isinstance(work.parameters, TrackParameters)
        frames = [frame for artifact in work.inputs.all("landmarks") for frame in artifact.facts["frames"]]  # type: ignore[attr-defined]
        name = work.inputs.one("ingest").facts["name"]
        work.output.facts.update(name=name, frames=frames, subject=work.parameters.subject)


class Retarget(Stage):
    name, version, scope, parameters = "retarget", 1, Scope.JOB, RetargetParameters
    inputs: ClassVar = (Input("track", "source"), Input("track", "target"))
    options: ClassVar = ("edits",)

    def run(self, work: Work) -> None:
        note(self, work, "job")
        work.output.facts["edits"] = work.options["edits"]


class Render(Stage):
    name, version, scope, parameters = "render", 1, Scope.JOB_CHUNK, RenderParameters
    media: ClassVar = ("source", "target")
    inputs: ClassVar = (Input("retarget", "job"), Input("track", "target"))

    def run(self, work: Work) -> None:
        note(self, work, "job")
        assert work.chunk is not None
        work.output.file("crop.bin").write_bytes(bytes(work.chunk.frames) or b"-")


class Assemble(Stage):
    name, version, scope, parameters = "assemble", 1, Scope.JOB, AssembleParameters
    media: ClassVar = ("target",)
    inputs: ClassVar = (Input("render", "job", "all"),)
    options: ClassVar = ("rights", "source_digest", "target_digest")

    def run(self, work: Work) -> None:
        note(self, work, "job")
        content = b"".join(artifact.file("crop.bin").read_bytes() for artifact in work.inputs.all("render", "job"))
        work.output.file("video.mp4").write_bytes(content)
        work.output.facts["provenance"] = dict(work.options)


class Measure(Stage):
    name, version, scope, parameters = "measure", 1, Scope.JOB, MeasureParameters
    inputs: ClassVar = (Input("assemble", "job"),)

    def run(self, work: Work) -> None:
        note(self, work, "job")
        work.output.facts["verdict"] = {"grade": "good"}


class Moody(Stage):
    """Does what its medium says: nothing, fail, crash, hang, or eat memory (once, where a file ``<medium>.once`` can be made).

    On a device that its medium calls ``broken`` the process dies, or says that the device failed or is too small.
    """

    name, version, scope, parameters = "moody", 1, Scope.CLIP, IngestParameters
    media: ClassVar = ("clip",)

    def run(self, work: Work) -> None:
        mood = json.loads(work.media["clip"].read_text())
        once = work.media["clip"].with_suffix(".once")
        work.output.facts.update(process=os.getpid(), device=work.device)
        if work.device in mood.get("broken", ()):
            if mood["mood"] == "device":
                raise HeadswapError("device_failed", f"{work.device} fell off the bus.", "Look at it.", retryable=True)
            if mood["mood"] == "scarce":
                raise HeadswapError("out_of_memory", f"{work.device} is too small.", "Take another.", retryable=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if mood.get("once") and once.exists():
            return
        once.touch()
        match mood["mood"]:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                for _ in range(600):  # busy, to all appearances
                    time.sleep(0.1)
                    work.progress(1)
            case "eat":
                held = bytearray(700 << 20)
                held[::4096] = b"x" * len(held[::4096])
                time.sleep(60)
            case "fail":
                raise ValueError("a bad mood")


STAGES = {
    name: f"tests.flows.fakes:{name.capitalize()}"
    for name in ("ingest", "landmarks", "track", "retarget", "render", "assemble", "measure")
}


def passing(code: str = "store_unreachable") -> HeadswapError:
    return HeadswapError(code, "The network went away.", "Wait.", retryable=True)
