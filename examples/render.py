"""Render the example media again: ``python examples/render.py ICT_FACEKIT_NPZ [--out DIR] [--only NAME ...] [--truths]``.

The people do not exist. Needs the packed ICT-FaceKit (``headswap models list`` says where to get it); takes about a minute on
one core. The same model file gives the same pictures before encoding. ``--truths`` also renders the true head swap of every
job of the catalogue: the same performance, body, light and camera with the portrait's head (one of them ships, ``truth/``).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from stages.performers.appearance import CLOTHES, HAIRS, IRISES, SKINS, Appearance, Room
from stages.performers.backdrop import Backdrop
from stages.performers.camera import Camera
from stages.performers.casting import IDENTITIES, IDENTITY_SPREAD, Person, Scene, play
from stages.performers.head import HeadModel
from stages.performers.performance import hum, perform
from stages.performers.scene import Performer

HERE = Path(__file__).parent
SAMPLE_RATE = 44_100
SHIPPED_TRUTHS = ("ben-smiles",)


def _person(shape_seed: int, **looks: Any) -> Person:
    """A head shape drawn from a seed, and the looks that were chosen for it."""
    identity = np.random.default_rng(shape_seed).normal(size=IDENTITIES) * IDENTITY_SPREAD
    return Person(identity.astype(np.float32), Appearance(**looks))


PORTRAIT_CAMERA = Camera(640, 640, 2.1, 90.0, (0.0, -1.5))


@dataclass(frozen=True)
class Portrait:
    """A still: who, where, with which expression (names without a side mean both) and head pose (yaw, pitch, roll, radians)."""

    name: str
    person: Person
    room: Room
    expression: dict[str, float]
    pose: tuple[float, float, float] = (0.06, 0.0, 0.01)
    camera: Camera = PORTRAIT_CAMERA


@dataclass(frozen=True)
class Clip:
    """A clip: who performs where, how it is seen, and what ``performance.perform`` is asked for."""

    name: str
    person: Person
    room: Room
    camera: Camera
    frames: int
    rate: int
    seed: int
    acting: dict[str, Any] = field(default_factory=dict)
    sound: bool = False

    def scene(self, model: HeadModel) -> Scene:
        performance = perform(model.expression_names, self.frames, self.rate, seed=self.seed, **self.acting)
        # A scene has somebody to swap with; which head is put on is said when it is played.
        return Scene(0, self.name, self.person, self.person, self.room, self.room, self.camera, performance)


PORTRAITS = (
    Portrait(
        "portrait_ada",
        _person(
            319,
            skin=SKINS[0],
            hair=HAIRS[4],
            iris=IRISES[2],
            cloth=CLOTHES[2],
            lips=(192, 112, 106),
            hair_style="long",
            clothes_style="crew",
            parting=0.18,
            wave=0.25,
            tips=-10.8,
            freckles=0.5,
            brows=0.75,
            build=0.92,
            texture_seed=5,
        ),
        Room("window", (176, 170, 158), seed=2),
        {"mouthSmile": 0.75, "cheekSquint": 0.3, "eyeSquint": 0.12, "eyeBlink": 0.02},
    ),
    Portrait(
        "portrait_ben",
        _person(310, skin=SKINS[1], hair=HAIRS[1], hair_style="quiff", clothes_style="shirt", beard=0.45, texture_seed=3),
        Room("studio", (188, 190, 186), seed=1),
        {"mouthSmile": 0.25, "eyeBlink": 0.04},
    ),
    Portrait(
        "portrait_chi",
        _person(
            308,
            skin=SKINS[4],
            hair=HAIRS[0],
            iris=IRISES[3],
            cloth=CLOTHES[5],
            lips=(140, 74, 70),
            hair_style="bob",
            clothes_style="roll",
            parting=-0.2,
            tips=-6.0,
            build=0.9,
            texture_seed=8,
        ),
        Room("studio", (120, 130, 140), seed=3),
        {"mouthSmile": 0.3, "eyeBlink": 0.04},
    ),
)

CLIPS = (
    Clip(
        "clip_speech",
        _person(
            317,
            skin=SKINS[2],
            hair=HAIRS[0],
            iris=IRISES[1],
            cloth=CLOTHES[1],
            lips=(172, 96, 86),
            hair_style="short",
            clothes_style="crew",
            beard=0.3,
            build=1.08,
            texture_seed=11,
        ),
        Room("shelf", seed=4),
        Camera(1280, 720, 2.2, 96.0, (0.0, -5.0)),
        frames=90,
        rate=25,
        seed=203,
        acting={"speech": 1.0, "smile": 0.5, "motion": 1.4, "drift": 1.0},
        sound=True,
    ),
    Clip(
        "clip_smile",
        _person(
            301,
            skin=SKINS[1],
            hair=HAIRS[2],
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
        seed=204,
        acting={"speech": 0.5, "smile": 1.3, "motion": 1.3},
    ),
    Clip(
        "clip_turn",
        _person(
            300,
            skin=SKINS[3],
            hair=HAIRS[0],
            iris=IRISES[3],
            cloth=CLOTHES[4],
            lips=(150, 82, 74),
            hair_style="buzz",
            clothes_style="crew",
            beard=0.6,
            texture_seed=17,
        ),
        Room("texture", (146, 128, 112), seed=7),
        Camera(480, 640, 1.7, 98.0, (0.0, -5.0)),
        frames=72,
        rate=24,
        seed=205,
        acting={"speech": 0.7, "smile": 0.6, "motion": 1.0, "turn": np.radians(26.0)},
    ),
)


def still(model: HeadModel, portrait: Portrait) -> npt.NDArray[np.uint8]:
    """The picture of a portrait: uint8 [h, w, 3], RGB."""
    weights = [
        portrait.expression.get(name, portrait.expression.get(name.removesuffix("_L").removesuffix("_R"), 0.0))
        for name in model.expression_names
    ]
    background = Backdrop(portrait.room, portrait.camera).frame(0.0, np.zeros(2))
    performer = Performer(model, portrait.person.identity, portrait.person.appearance)
    pose = np.array(portrait.pose, np.float32)
    return performer.shoot(portrait.camera, portrait.room, background, np.array(weights, np.float32), pose).picture


def jobs() -> dict[str, tuple[Portrait, Clip]]:
    """Portrait and clip of every job of the catalogue, by the job's id."""
    portraits, clips = {f"{one.name}.png": one for one in PORTRAITS}, {f"{one.name}.mp4": one for one in CLIPS}
    with (HERE / "catalogue.csv").open(newline="") as file:
        return {row["id"]: (portraits[row["source"]], clips[row["target"]]) for row in csv.DictReader(file)}


def write_clip(
    path: Path, clip: Clip, pictures: Iterable[npt.NDArray[np.uint8]], sound: npt.NDArray[np.float32] | None = None
) -> None:
    """H.264 with BT.709 colour, and AAC where there is sound."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream(
            "libx264", rate=Fraction(clip.rate), options={"crf": "22", "preset": "veryslow", "threads": "1"}
        )
        video.width, video.height, video.pix_fmt = clip.camera.width, clip.camera.height, "yuv420p"
        video.codec_context.color_range = 1
        video.codec_context.colorspace, video.codec_context.color_primaries, video.codec_context.color_trc = 1, 1, 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound is not None else None
        for picture in pictures:
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
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", action="append", help="name of a file without its ending, or id of a job; may be repeated")
    parser.add_argument("--truths", action="store_true", help="the true swap of every job, not only of those that ship")
    arguments = parser.parse_args()
    model = HeadModel.load(arguments.model)
    wanted = set(arguments.only or ())
    (arguments.out / "truth").mkdir(parents=True, exist_ok=True)
    written = []
    for portrait in PORTRAITS:
        if not wanted or portrait.name in wanted:
            written.append(arguments.out / f"{portrait.name}.png")
            picture = cv2.cvtColor(still(model, portrait), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(written[-1]), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    for clip in CLIPS:
        if not wanted or clip.name in wanted:
            written.append(arguments.out / f"{clip.name}.mp4")
            scene = clip.scene(model)
            sound = hum(scene.performance, seed=clip.seed, sample_rate=SAMPLE_RATE) if clip.sound else None
            write_clip(written[-1], clip, (shot.picture for shot in play(model, scene, clip.person)), sound)
    for name, (portrait, clip) in jobs().items():
        if name in wanted or (not wanted and (arguments.truths or name in SHIPPED_TRUTHS)):
            written.append(arguments.out / "truth" / f"{name}.mp4")
            head = portrait.person.on_body_of(clip.person)
            write_clip(written[-1], clip, (shot.picture for shot in play(model, clip.scene(model), head)))
    for path in written:
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
