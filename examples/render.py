"""Render the example portraits and clips again: ``python examples/render.py ICT_FACEKIT_NPZ [--out DIR] [--only NAME]``.

The people do not exist. Needs the packed ICT-FaceKit (``headswap models list`` says where to get it); takes a few minutes
on one core. The same model file gives the same pictures before encoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from stages.performers.appearance import CLOTHES, HAIRS, IRISES, SKINS, Appearance, Room
from stages.performers.head import HeadModel
from stages.performers.performance import Performance, hum, perform
from stages.performers.scene import Camera, Performer

SAMPLE_RATE = 44_100


@dataclass(frozen=True)
class Example:
    """One file: a still when ``frames`` is 1."""

    name: str
    shape_seed: int
    appearance: Appearance
    room: Room
    camera: Camera
    frames: int = 1
    rate: int = 25
    sound: bool = False
    acting: dict[str, Any] = field(default_factory=dict)


PORTRAIT = Camera(640, 640, 2.1, 90.0, (0.0, -1.5))

EXAMPLES = (
    Example(
        "portrait_ada",
        101,
        Appearance(
            skin=SKINS[0],
            hair=HAIRS[4],
            iris=IRISES[2],
            cloth=CLOTHES[2],
            lips=(192, 112, 106),
            hair_style="long",
            clothes_style="crew",
            parting=0.18,
            wave=0.25,
            tips=-15.0,
            freckles=0.8,
            brows=0.7,
            build=0.92,
            texture_seed=5,
        ),
        Room("window", (176, 170, 158), seed=2),
        PORTRAIT,
    ),
    Example(
        "portrait_ben",
        100,
        Appearance(skin=SKINS[1], hair=HAIRS[1], hair_style="quiff", clothes_style="shirt", beard=0.35, texture_seed=3),
        Room("shelf", seed=1),
        PORTRAIT,
    ),
    Example(
        "portrait_chi",
        102,
        Appearance(
            skin=SKINS[3],
            hair=HAIRS[0],
            iris=IRISES[3],
            cloth=CLOTHES[5],
            lips=(150, 78, 74),
            hair_style="bob",
            clothes_style="roll",
            parting=-0.2,
            tips=-6.0,
            build=0.9,
            texture_seed=8,
        ),
        Room("studio", (120, 130, 140), seed=3),
        PORTRAIT,
    ),
    Example(
        "clip_speech",
        203,
        Appearance(
            skin=SKINS[2],
            hair=HAIRS[0],
            iris=IRISES[1],
            cloth=CLOTHES[1],
            lips=(172, 96, 86),
            hair_style="short",
            clothes_style="crew",
            beard=0.25,
            build=1.12,
            texture_seed=11,
        ),
        Room("shelf", seed=4),
        Camera(1280, 720, 2.2, 112.0, (0.0, -7.0)),
        frames=75,
        rate=25,
        sound=True,
        acting={"speech": 1.0, "smile": 0.5, "motion": 1.5},
    ),
    Example(
        "clip_smile",
        204,
        Appearance(
            skin=SKINS[1],
            hair=HAIRS[3],
            iris=IRISES[0],
            cloth=CLOTHES[0],
            lips=(184, 100, 96),
            hair_style="bob",
            clothes_style="crew",
            parting=0.25,
            tips=-5.0,
            build=0.9,
            brows=0.7,
            texture_seed=13,
        ),
        Room("window", (168, 160, 146), seed=6),
        Camera(512, 512, 2.0, 92.0, (0.0, -2.0)),
        frames=90,
        rate=30,
        acting={"speech": 0.5, "smile": 1.3, "motion": 1.3},
    ),
    Example(
        "clip_turn",
        205,
        Appearance(
            skin=SKINS[4],
            hair=HAIRS[0],
            iris=IRISES[3],
            cloth=CLOTHES[3],
            lips=(126, 72, 66),
            hair_style="buzz",
            clothes_style="roll",
            beard=0.6,
            texture_seed=17,
        ),
        Room("studio", (146, 128, 112), seed=7),
        Camera(480, 640, 1.7, 98.0, (0.0, -5.0)),
        frames=60,
        rate=24,
        acting={"speech": 0.7, "smile": 0.6, "motion": 1.7},
    ),
)


def performer_of(model: HeadModel, example: Example) -> Performer:
    """The person of an example: a moderate head shape drawn from its seed."""
    identity = np.random.default_rng(example.shape_seed).normal(size=40) * 0.7
    return Performer(model, identity.astype(np.float32), example.appearance)


def performance_of(model: HeadModel, example: Example) -> Performance:
    return perform(model.expression_names, max(example.frames, 2), example.rate, seed=example.shape_seed, **example.acting)


def pictures(model: HeadModel, example: Example) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames of an example: uint8 [h, w, 3], RGB."""
    performer, background = performer_of(model, example), example.room.paint(example.camera.width, example.camera.height)
    if example.frames == 1:
        expression = np.zeros(len(model.expression_names), np.float32)
        for side in "LR":
            expression[model.expression_names.index(f"mouthSmile_{side}")] = 0.25
            expression[model.expression_names.index(f"eyeBlink_{side}")] = 0.12
        yield performer.shoot(
            example.camera, example.room, background, expression, np.array([0.06, 0.0, 0.01], np.float32)
        ).picture
        return
    performance = performance_of(model, example)
    for frame in range(example.frames):
        yield performer.shoot_frame(example.camera, example.room, background, performance, frame).picture


def write_clip(
    path: Path, example: Example, frames: Iterator[npt.NDArray[np.uint8]], sound: npt.NDArray[np.float32] | None
) -> None:
    """H.264 with BT.709 colour, and AAC where there is sound."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream(
            "libx264", rate=Fraction(example.rate), options={"crf": "21", "preset": "veryslow", "threads": "1"}
        )
        video.width, video.height, video.pix_fmt = example.camera.width, example.camera.height, "yuv420p"
        video.codec_context.color_range = 1
        video.codec_context.colorspace, video.codec_context.color_primaries, video.codec_context.color_trc = 1, 1, 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound is not None else None
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range=1
            )
            frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 1, 1, 1, 1
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                block = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(sound[None, start : start + 1024]), format="fltp", layout="mono"
                )
                block.sample_rate, block.pts = SAMPLE_RATE, start
                container.mux(audio.encode(block))
            container.mux(audio.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="packed ICT-FaceKit (.npz)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", action="append", help="name of an example; may be given several times")
    arguments = parser.parse_args()
    model = HeadModel.load(arguments.model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        if arguments.only and example.name not in arguments.only:
            continue
        frames = pictures(model, example)
        if example.frames == 1:
            path = arguments.out / f"{example.name}.png"
            cv2.imwrite(str(path), cv2.cvtColor(next(frames), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
        else:
            path = arguments.out / f"{example.name}.mp4"
            sound = (
                hum(performance_of(model, example), seed=example.shape_seed, sample_rate=SAMPLE_RATE) if example.sound else None
            )
            write_clip(path, example, frames, sound)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
