"""Finished swaps against their truth, which only renders have: the same performance, body, light and camera with the other head.

    headswap performers render --swaps --out RENDERS --count 24 --frames 48 --seed 5
    python -m benchmarks.swaps RENDERS [--out FOLDER] [--pipeline NAME ...] [--only NAME ...]

Every way of making swaps goes through ``headswap run`` with one store, so that they share all stages up to where they differ.
Writes ``swaps.json`` and ``swaps.jpg`` (targets, portraits, each way, truth) and replaces the section of ``docs/evaluation.md``.
Columns: PSNR over the heads of target and truth, and where nobody is; share of the truth's detail that is missing in the face;
landmarks, what remains of their difference without place, size and turn (the face's shape), pose and expression found in the
result against those found in the truth, so that what the detector always gets wrong counts on neither side.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks import document
from flows.runs import readable_id
from stages.detectors import FaceMesh, Window
from stages.face3d.fitting import fit_frames, fit_identity
from stages.face3d.model import FaceModel
from stages.face3d.topology import interocular
from stages.measure import PRESENCE
from stages.metrics import geometry
from stages.metrics.masks import peak_signal_to_noise
from stages.metrics.pictures import face_detail, softness
from stages.metrics.retargeting import bootstrap_interval, brought_onto, region_errors
from stages.segmentation import BACKGROUND, FACE, HAIR
from stages.video.decode import open_clip
from storage.pictures import decode_png

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "evaluation.md"

WAYS: dict[str, tuple[str, ...]] = {
    "warp": (),
    "warp, faces at rest as in the paper": ("--set", "stages.retarget.method=paper"),
    "warp, the source's expression kept": ("--set", "stages.retarget.neutralise=false"),
    "warp, expressions not scaled": ("--set", "stages.retarget.scale_aware=false"),
}
"""Options of ``headswap run``."""

UNTOUCHED = "the target itself"

MEASURES = {
    "head": ("head, dB", "{:.2f}", 1.0),
    "outside": ("nobody there, dB", "{:.1f}", 1.0),
    "softness": ("detail missing, %", "{:.0f}", 100.0),
    "landmarks": ("landmarks, % of the eye distance", "{:.2f}", 100.0),
    "shape": ("face's shape, % likewise", "{:.2f}", 1.0),
    "pose": ("pose, degrees", "{:.2f}", 1.0),
    "expression": ("expression, weights", "{:.4f}", 1.0),
}
"""Title, format and factor of each."""

SHOWN = 5
"""Clips on the sheet: the first ones, not chosen."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """A rendered performance: its target, portrait and true swap, and where the heads are."""

    name: str
    folder: Path
    portrait: Path

    @property
    def target(self) -> Path:
        return self.folder / "picture.mp4"

    @property
    def truth(self) -> Path:
        return self.folder / "swap" / "picture.mp4"

    def labels(self, frame: int) -> tuple[Picture, Picture]:
        """Label maps of target and truth, uint8 [height, width]."""
        name = f"labels/{frame:06d}.png"
        target, truth = (decode_png((folder / name).read_bytes()) for folder in (self.folder, self.folder / "swap"))
        return target, truth

    def landmarks(self) -> NDArray[np.float64]:
        """Those of the renderer in the true swap, float64 [frames, 478, 3]: where faces are looked for."""
        column = pq.read_table(self.folder / "swap" / "truth.parquet", columns=["landmarks"])["landmarks"]
        return np.asarray(column.to_pylist(), np.float64).reshape(len(column), -1, 3)


def clips_of(renders: Path) -> list[Clip]:
    """Raises SystemExit where the folder holds no true swaps."""
    told = renders / "performers.csv"
    if not told.is_file():
        sys.exit(f"{told} does not exist: render performers there with `headswap performers render --out {renders} --swaps`.")
    with told.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "swap" not in rows[0]:
        sys.exit(f"{renders} holds no true swaps: render it with --swaps.")
    return [Clip(row["id"], renders / "clips" / row["id"], renders / row["portrait"]) for row in rows]


def made(renders: Path, out: Path, name: str, options: Sequence[str]) -> Path:
    """All swaps in one way; returns their folder."""
    folder = out / readable_id(name)
    places = ("--store", str(out / "store"), "--out", str(folder))
    given = (str(renders / "catalogue.csv"), *places, "--engine", "direct", "--json", *options)
    command = [sys.executable, "-m", "cli", "run", *given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    failed = json.loads(done.stdout)["failed"] if done.stdout else -1
    if failed:
        sys.exit(f"{name}: the swaps could not be made ({failed} failed). The command was: {' '.join(command)}")
    return folder


def measured(clip: Clip, result: Path, mesh: FaceMesh) -> dict[str, float]:
    """Means over the frames of a swap, by name (``MEASURES``); NaN of the face in frames that show none is left out."""
    places, frames = clip.landmarks(), []
    found: list[NDArray[np.float64]] = []
    true: list[NDArray[np.float64]] = []
    with open_clip(result) as ours, open_clip(clip.truth) as theirs:
        for (frame, own), (_, wanted) in zip(ours.iterate(), theirs.iterate(), strict=True):
            target, truth = clip.labels(frame)
            heads = np.isin(target, (HAIR, FACE)) | np.isin(truth, (HAIR, FACE))
            nobody = (target == BACKGROUND) & (truth == BACKGROUND)
            row = {"head": peak_signal_to_noise(own, wanted, heads), "outside": peak_signal_to_noise(own, wanted, nobody)}
            window = Window.around(places[frame])
            faces = [mesh.landmarks(picture, window) for picture in (own, wanted)]
            if all(presence >= PRESENCE and np.isfinite(points).all() for points, presence in faces):
                details = [face_detail(picture, points) for picture, (points, _) in zip((own, wanted), faces, strict=True)]
                row["softness"] = softness(details[0], details[1], details[1])
                found.append(faces[0][0])
                true.append(faces[1][0])
            frames.append(row)
    means = {name: _mean([row[name] for row in frames if name in row]) for name in ("head", "outside", "softness")}
    if not found:
        return means | dict.fromkeys(("landmarks", "shape", "pose", "expression"), float("nan"))
    model = FaceModel.builtin()
    pairs = np.stack(found), np.stack(true)
    identity = fit_identity(pairs[1], model)
    fits = [fit_frames(points, model, identity) for points in pairs]
    return {
        **means,
        "landmarks": float(geometry.landmark_error(pairs[0], pairs[1], interocular(pairs[1])).mean()),
        "shape": float(region_errors(brought_onto(*pairs, model), pairs[1])["all"].mean()),
        "pose": float(geometry.pose_error(fits[0].poses.rotation, fits[1].poses.rotation).mean()),
        "expression": float(geometry.expression_error(fits[0].expression, fits[1].expression).mean()),
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def told(values: Sequence[float], name: str) -> str:
    """Mean with its 95 % interval over clips."""
    _, form, factor = MEASURES[name]
    numbers = np.asarray(values) * factor
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return "–"
    low, high = bootstrap_interval(numbers, np.arange(len(numbers)), seed=0)
    return f"{form.format(numbers.mean())} ({form.format(low)} to {form.format(high)})"


def table_of(numbers: dict[str, list[dict[str, float]]]) -> str:
    """A row for each way, a column for each measure."""
    rows = [
        [name, *(told([clip[measure] for clip in found], measure) for measure in MEASURES)] for name, found in numbers.items()
    ]
    return document.table(["", *(title for title, _, _ in MEASURES.values())], rows)


def differences(found: list[dict[str, float]], base: list[dict[str, float]]) -> list[dict[str, float]]:
    """Swap by swap, what a way measures more than another."""
    return [{name: own[name] - other[name] for name in MEASURES} for own, other in zip(found, base, strict=True)]


def sheet(clips: Sequence[Clip], folders: dict[str, Path]) -> Picture:
    """One row for each clip: target, portrait, every way, truth; the frame in the middle."""

    def row(clip: Clip) -> Iterator[Picture]:
        swaps = (folder / f"swap_{clip.name}.mp4" for folder in folders.values())
        for path in (clip.target, clip.portrait, *swaps, clip.truth):
            with open_clip(path) as shown:
                yield shown.read(len(shown) // 2)

    rows = [[cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA) for picture in row(clip)] for clip in clips]
    return np.concatenate([np.concatenate(pictures, 1) for pictures in rows])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swaps", description=__doc__.splitlines()[0])
    parser.add_argument("renders", type=Path)
    parser.add_argument("--out", type=Path, default=Path("swaps-measured"))
    parser.add_argument("--pipeline", action="append", default=[], help="a registered pipeline of the diffusion renderer")
    parser.add_argument("--only", action="append", default=[], choices=WAYS, help="besides warp, these ways only")
    asked = parser.parse_args(arguments)
    clips, out = clips_of(asked.renders), asked.out.resolve()
    ways = {name: options for name, options in WAYS.items() if name == "warp" or not asked.only or name in asked.only}
    for pipeline in asked.pipeline:
        ways[f"diffusion, {pipeline}"] = ("--renderer", "diffusion", "--set", f"stages.render.diffusion.model={pipeline}")
    folders = {name: made(asked.renders.resolve(), out, name, options) for name, options in ways.items()}
    numbers: dict[str, list[dict[str, float]]] = {}
    with FaceMesh() as mesh:
        numbers[UNTOUCHED] = [measured(clip, clip.target, mesh) for clip in clips]
        for name, folder in folders.items():
            numbers[name] = [measured(clip, folder / f"swap_{clip.name}.mp4", mesh) for clip in clips]
    (out / "swaps.json").write_text(json.dumps(numbers, indent=1))
    cv2.imwrite(str(out / "swaps.jpg"), sheet(clips[:SHOWN], folders)[..., ::-1])
    text = f"Means over {len(clips)} swaps, each of the mean of its frames, and their 95 % intervals.\n\n{table_of(numbers)}"
    others = {name: differences(found, numbers["warp"]) for name, found in numbers.items() if name not in ("warp", UNTOUCHED)}
    if others:
        text += f"\n\nDifferences from `warp` on the same swaps:\n\n{table_of(others)}"
    document.replace("swaps", text, DOCUMENT)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
