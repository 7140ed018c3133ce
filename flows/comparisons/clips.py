"""Performers for comparisons of masks and plates: clips under balanced conditions, with the truth that the stages never see."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from flows.execution import describe, perform
from flows.planning import Clip, Node, Planner
from flows.renders import VideoFile, clear_clip, is_described, write_json
from schemas.configuration import Settings
from stages.networks.registry import ModelRegistry
from stages.performers.appearance import ClothesStyle, HairStyle, Room
from stages.performers.casting import Scene, cast, empty_room, play
from stages.performers.head import HeadModel, loaded_head_model
from storage.artifacts import Artifact
from storage.keys import digest_value
from storage.pictures import decode_png, encode_png
from storage.store import ArtifactStore

CONDITIONS_VERSION = 3
"""Goes up when the same seed gives other clips."""

ROOMS: tuple[str, ...] = ("shelf", "window", "studio", "plain", "texture", "moving")
HAIR: tuple[HairStyle, ...] = (
    "long", "short", "bob", "quiff", "long", "curly", "knot", "long", "buzz", "bob", "short", "bald",
)  # fmt: skip
BEARDED = ("bald", "buzz", "short", "quiff", "curly")
DRIFT = 4.0
"""Centimetres that a moving camera goes to either side: about 15 pixels of the background at 512."""

WIDE_FOCAL = 1.35
"""Focal length of every second group of clips, in heights of the picture: head and chest fill less of the frame."""

STAGES = ("ingest", "landmarks", "track", "masks", "inpaint")


@dataclass(frozen=True)
class ClipOrder:
    """What is rendered for a comparison.

    Attributes:
        count, frames: clips, and frames of each. size: side of the pictures, pixels. rate: frames a second. seed: of everything.
    """

    count: int = 24
    frames: int = 24
    size: int = 512
    rate: int = 12
    seed: int = 0


@dataclass(frozen=True)
class Conditions:
    """What a clip shows, chosen so that 24 clips cross every room with still and moving cameras, near and far."""

    act: str
    room: str
    camera: str
    framing: str
    hair: str
    clothes: str
    beard: bool
    glasses: bool


def scene_of(model: HeadModel, order: ClipOrder, number: int) -> tuple[Scene, Conditions]:
    """The scene with this number and its conditions; the same for the same order."""
    scene = cast(
        model, number, seed=order.seed, frames=order.frames, frames_per_second=order.rate, width=order.size, height=order.size
    )
    rng = np.random.default_rng([order.seed, number, 31])
    hair = HAIR[(5 * number + number // 12) % len(HAIR)]
    clothes = get_args(ClothesStyle)[(number + number // 6) % 3]
    bearded, glasses = hair in BEARDED and number % 2 == 0, number % 4 == 1
    look = replace(
        scene.person.appearance,
        hair_style=hair,
        clothes_style=clothes,
        tips=float(rng.uniform(-7, -4.5) if hair == "bob" else rng.uniform(-24, -12)),
        beard=float(rng.uniform(0.4, 1.0)) if bearded else 0.0,
        glasses=float(rng.uniform(0.3, 1.0)) if glasses else 0.0,
    )
    moving, wide = (number // 6) % 2 == 1, (number // 12) % 2 == 1
    room: Room = replace(scene.room, kind=ROOMS[number % len(ROOMS)])  # type: ignore[arg-type]
    camera = replace(scene.camera, focal=WIDE_FOCAL) if wide else scene.camera
    drift = _drift(order, rng) if moving else np.zeros((order.frames, 2), np.float32)
    found = replace(
        scene,
        person=replace(scene.person, appearance=look),
        room=room,
        camera=camera,
        performance=replace(scene.performance, drift=drift),
    )
    told = Conditions(
        scene.act, room.kind, "moving" if moving else "still", "wide" if wide else "close", hair, clothes, bearded, glasses
    )
    return found, told


def _drift(order: ClipOrder, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The path of a camera held by hand: a slow swing with a faster one on it, centimetres, float32 [frames, 2]."""
    seconds = np.arange(order.frames) / order.rate
    slow, fast = (rng.uniform(0.8, 1.2, 2) * frequency for frequency in (0.35, 1.4))
    phases = rng.uniform(0, 2 * np.pi, (2, 2))
    path = np.sin(2 * np.pi * slow * seconds[:, None] + phases[0]) + 0.12 * np.sin(
        2 * np.pi * fast * seconds[:, None] + phases[1]
    )
    return np.asarray(DRIFT * (path - path.mean(0)) / 1.12, np.float32)


def render_for_comparison(head_model: Path, out: Path, order: ClipOrder, number: int) -> Path:
    """Render clip ``number`` with its truth, unless it is there. Returns its folder.

    Writes ``picture.mp4``, ``labels/``, ``alpha/`` and ``room/`` (the frame without anybody; PNG each) and ``clip.json``.
    """
    folder = out / f"{number:04d}"
    asked = {name: value for name, value in asdict(order).items() if name != "count"}
    recipe = digest_value({"version": CONDITIONS_VERSION, "number": number, **asked})
    described = folder / "clip.json"
    if is_described(described, recipe):
        return folder
    model = loaded_head_model(str(head_model))
    clear_clip(described)
    scene, conditions = scene_of(model, order, number)
    for name in ("labels", "alpha", "room"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with VideoFile(folder / "picture.mp4", order.size, order.rate) as video:
        for frame, (shot, empty) in enumerate(zip(play(model, scene, scene.person), empty_room(scene), strict=True)):
            video.write(shot.picture)
            for name, picture in (("labels", shot.labels), ("alpha", shot.alpha), ("room", empty)):
                (folder / name / f"{frame:06d}.png").write_bytes(encode_png(picture))
    # Written last: where it lies, the clip is complete.
    write_json(described, {"recipe": recipe, "order": asdict(order), **asdict(conditions)})
    return folder


def truth_pictures(folder: Path, name: str) -> Iterator[npt.NDArray[np.uint8]]:
    """The pictures of ``labels``, ``alpha`` or ``room`` of a rendered clip, in order of frames."""
    for path in sorted((folder / name).glob("*.png")):
        yield decode_png(path.read_bytes())


def run_stages(
    video: Path, store: ArtifactStore, settings: Settings, registry: ModelRegistry, stages: Sequence[str] = STAGES
) -> Mapping[str, list[Artifact]]:
    """Run the clip stages on a video, in this process, as a run would; what is committed is taken from the store.

    Raises:
        HeadswapError: a stage failed.
    """
    planner = Planner([], store, settings, registry)
    clip = Clip(str(video), settings.stages.track.subject)
    planner.survey_clip(clip)
    result: dict[str, list[Artifact]] = {}
    for name in stages:
        owner = clip if name in ("track", "masks", "inpaint") else Clip(clip.url)
        (step,) = planner.resolve([Node(owner, name)])
        if step.units is None:
            raise RuntimeError(f"{name} of {video.name} cannot be planned")
        for unit in step.units:
            if unit.manifest is None:
                unit.manifest = perform(describe(planner, unit), _quiet).manifest
        result[name] = [store.artifact(unit.manifest) for unit in step.units if unit.manifest is not None]
    return result


def _quiet(frames: int) -> None:
    del frames


def with_hair(settings: Settings, hair: str) -> Settings:
    """The settings with ``masks.hair`` set."""
    masks = settings.stages.masks.model_copy(update={"hair": hair})
    return settings.model_copy(update={"stages": settings.stages.model_copy(update={"masks": masks})})


def conditions_of(folder: Path) -> dict[str, Any]:
    """The conditions of a rendered clip, as in its ``clip.json``."""
    told = json.loads((folder / "clip.json").read_text())
    return {name: told[name] for name in Conditions.__dataclass_fields__}
