"""How fast performers are rendered, and whether MediaPipe takes them for people; sections of ``docs/benchmarks.md``.

    python -m benchmarks.performers ICT_FACEKIT_NPZ [speed] [faces]

Apart from ``python -m benchmarks``, because it needs the head model's file.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import document
from benchmarks.document import table
from benchmarks.parts import ROOT, folder
from stages.detectors import FaceDetector, FaceMesh, Window
from stages.performers.backdrop import Backdrop
from stages.performers.casting import cast
from stages.performers.head import HeadModel
from stages.performers.scene import Performer

FRONTAL = 35.0
"""Degrees of yaw up to which a face must be found."""

CLIPS, LENGTH, STEP, SEED = 45, 75, 9, 77
"""The sample: every ``STEP``-th frame of so many clips."""


@dataclass(frozen=True)
class Detections:
    """What MediaPipe made of rendered frames, one row each.

    Attributes:
        yaw: float64 [frames], degrees, without sign. hand: bool [frames], a hand is in the picture.
        faces: int64 [frames], how many the detector found. found: bool [frames], the mesh confirms the first of them.
        error: float64 [frames], landmarks against the truth, root mean square in the picture's plane, share of the distance
            between the eyes; NaN where no face was found.
    """

    yaw: npt.NDArray[np.float64]
    hand: npt.NDArray[np.bool_]
    faces: npt.NDArray[np.int64]
    found: npt.NDArray[np.bool_]
    error: npt.NDArray[np.float64]


def detect(head_model: Path, clips: int = CLIPS, seed: int = SEED, size: int = 512) -> Detections:
    """Look at every ``STEP``-th frame of ``clips`` clips of all acts with the detectors of the pipeline."""
    model, rows = HeadModel.load(head_model), []
    with FaceDetector(0.5) as detector, FaceMesh() as mesh:
        for number in range(clips):
            scene = cast(model, number, seed=seed, frames=LENGTH, frames_per_second=25, width=size, height=size)
            performer = Performer(model, scene.person.identity, scene.person.appearance)
            backdrop, performance = Backdrop(scene.room, scene.camera), scene.performance
            for frame in range(3, LENGTH, STEP):
                drift = performance.drift[frame]
                aim = (scene.camera.aim[0] + float(drift[0]), scene.camera.aim[1] + float(drift[1]))
                background = backdrop.frame(frame / 25, drift)
                shot = performer.shoot_frame(replace(scene.camera, aim=aim), scene.room, background, performance, frame)
                faces, found, error = detector.detect(shot.picture), False, float("nan")
                if faces:
                    landmarks, presence = mesh.landmarks(shot.picture, faces[0].window)
                    if presence > 0.5:  # as a tracker does: once more from where the face turned out to be
                        landmarks, presence = mesh.landmarks(shot.picture, Window.around(landmarks))
                    found = presence > 0.5
                    eyes = [shot.landmarks[list(corners), :2].mean(0) for corners in ((33, 133), (263, 362))]
                    away = np.linalg.norm((landmarks - shot.landmarks)[:, :2], axis=1) / np.linalg.norm(eyes[0] - eyes[1])
                    error = float(np.sqrt((away**2).mean())) if found else error
                yaw = abs(float(np.degrees(performance.pose[frame, 0])))
                rows.append((yaw, np.isfinite(performance.hand[frame]).all(), len(faces), found, error))
    yaws, hands, counts, finds, errors = (np.array(column) for column in zip(*rows, strict=True))
    return Detections(yaws, hands.astype(bool), counts.astype(int), finds.astype(bool), errors)


def speed(head_model: Path) -> str:
    """``headswap performers render`` on two processes, everything written."""
    rows, clips, frames = [], 8, 75
    kinds: dict[str, tuple[str, ...]] = {"people": (), "people and true swaps": ("--swaps",)}
    for name, options in kinds.items():
        with folder() as place:
            command = [sys.executable, "-m", "cli", "performers", "render", "--out", str(place), "--count", str(clips)]
            command += ["--frames", str(frames), "--size", "512", "--seed", "1", "--workers", "2"]
            command += ["--head-model", str(head_model), "--json", *options]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            told = json.loads(done.stdout)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rows.append([name, str(told["frames"]), f"{1000 * cpu / told['frames']:.0f}", f"{told['frames_per_second']:.1f}"])
    return (
        f"## Performers: {clips} clips of {frames} frames, 512x512, two workers\n\n"
        + table(["what", "frames", "ms of one core a frame", "frames/s"], rows)
        + "\n\nFrames a second by the clock, with video, label maps, alpha and truth written (goal: 20). Time of "
        "the core is that of all processes, start of the program and each person's preparation included."
    )


def faces(head_model: Path) -> str:
    """Whether the pipeline's detectors find the faces of performers."""
    seen = detect(head_model)
    near = seen.yaw <= FRONTAL
    kinds = (
        (f"up to {FRONTAL:.0f} degrees of yaw", near),
        ("of these without a hand before the person", near & ~seen.hand),
        ("of these with one", near & seen.hand),
        (f"beyond {FRONTAL:.0f} degrees", ~near),
    )
    rows = [[name, str(int(chosen.sum())), f"{100 * seen.found[chosen].mean():.1f} %"] for name, chosen in kinds]
    error = 100 * float(np.nanmedian(seen.error[near & ~seen.hand]))
    return (
        f"## Performers' faces: {CLIPS} people, every {STEP}th frame\n\n"
        + table(["frames", "number", "MediaPipe finds the face"], rows)
        + f"\n\nGoal: 99 % up to {FRONTAL:.0f} degrees. More than one face found in {int((seen.faces > 1).sum())} frames. "
        f"Landmarks lie {error:.1f} % of the distance between the eyes from the truth (median over frames, root mean square "
        "over landmarks)."
    )


PARTS = {"speed": speed, "faces": faces}


def main(arguments: list[str]) -> None:
    if not arguments or any(name not in PARTS for name in arguments[1:]):
        sys.exit(f"Usage: python -m benchmarks.performers ICT_FACEKIT_NPZ [{'] ['.join(PARTS)}]")
    for name in arguments[1:] or PARTS:
        text = PARTS[name](Path(arguments[0]))
        document.replace(f"performers {name}", text)
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
