"""Renders catalogues of synthetic people with their truth: clips, label maps, alpha, tables, and the true head swap."""

from __future__ import annotations

import csv
import functools
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.renders import VideoFile, clear_clip, is_described, take_folder, write_json
from schemas.performers import PERFORMANCE
from schemas.problems import UsageError
from stages.durable import write_whole
from stages.performers.casting import Scene, cast, play, portrait
from stages.performers.head import HeadModel, loaded_head_model
from stages.performers.packing import packed
from stages.performers.scene import Shot
from stages.processes import process_pool
from storage.keys import digest_value
from storage.pictures import encode_png
from storage.tables import ParquetTableWriter

RENDERER_VERSION = 4
"""Goes up when the same seed gives other pictures, so that clips of an older version are rendered again."""

DESCRIPTION = "performer.json"
"""In a clip's folder: what it shows. Written last: where it lies, the clip is complete."""


SMALLEST, LARGEST = 64, 2048


@dataclass(frozen=True)
class RenderOrder:
    """What to render.

    Attributes:
        count, frames: clips, and frames of each. size: side of the pictures, pixels. rate: frames a second. seed: of everything.
        swaps: also the portrait of a second person, and the clip with that person's head. stills: also every picture as PNG.
    """

    count: int
    frames: int = 75
    size: int = 512
    rate: int = 25
    seed: int = 0
    swaps: bool = False
    stills: bool = False

    def check(self) -> None:
        """Raises ``UsageError`` with every problem at once."""
        problems = []
        if self.count < 1 or self.frames < 2:
            problems.append("At least one clip of two frames is needed.")
        if not SMALLEST <= self.size <= LARGEST or self.size % 2:
            problems.append(f"The size must be even and between {SMALLEST} and {LARGEST} pixels, not {self.size}.")
        if not 1 <= self.rate <= 240:
            problems.append(f"The frame rate must be between 1 and 240, not {self.rate}.")
        if self.seed < 0:
            problems.append("The seed must not be negative.")
        if problems:
            raise UsageError(problems)


def render_performers(
    head_model: Path, out: Path, order: RenderOrder, *, workers: int, tell: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Render a catalogue of performers into a folder; clips that are complete are not rendered again.

    Writes, below ``out``: ``clips/<number>/picture.mp4``, ``labels/`` and ``alpha/`` (PNG), ``truth.parquet``
    (``schemas.performers``) and ``performer.json``; with swaps ``clips/<number>/swap/`` with the same files and
    ``portraits/<number>.png``; ``performers.csv``, one row per clip; ``catalogue.csv`` for ``headswap run``.

    Returns:
        Numbers of clips and frames, how many were rendered now, and the frames rendered per second.

    Raises:
        UsageError: an order that makes no sense; a folder that cannot be used or holds renders of another head model.
    """
    order.check()
    take_folder(out, head_model)
    missing = [number for number in range(order.count) if not _complete(out, order, number)]
    started, done = time.perf_counter(), order.count - len(missing)
    work = functools.partial(render_clip, str(head_model), str(out), order)
    if missing:
        # One worker is a process as well: with the threads of this one, sums would have other last bits.
        with process_pool(min(workers, len(missing))) as pool:
            for _ in pool.each(work, missing):
                done += 1
                if tell is not None:
                    tell(done, order.count)
    seconds = time.perf_counter() - started
    _write_lists(out, order)
    rendered = len(missing) * order.frames * (2 if order.swaps else 1)
    return {
        "folder": str(out),
        "clips": order.count,
        "rendered": len(missing),
        "frames": order.count * order.frames * (2 if order.swaps else 1),
        "frames_per_second": round(rendered / seconds, 1) if missing else None,
    }


def render_clip(head_model: str, out: str, order: RenderOrder, number: int) -> None:
    """Render one clip with its truth, and its swap; nothing of an earlier clip with this number is left."""
    model = loaded_head_model(head_model)
    scene = cast(
        model, number, seed=order.seed, frames=order.frames, frames_per_second=order.rate, width=order.size, height=order.size
    )
    folder, target = _clip(Path(out), number), Path(out) / "portraits" / f"{number:04d}.png"
    clear_clip(folder / DESCRIPTION)
    target.unlink(missing_ok=True)
    if order.swaps:
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(encode_png(portrait(model, scene, order.size).picture))
        _write_clip(folder / "swap", order, scene, play(model, scene, scene.other.on_body_of(scene.person)))
    _write_clip(folder, order, scene, play(model, scene, scene.person))
    write_json(folder / DESCRIPTION, _description(model, order, scene))


def _write_clip(folder: Path, order: RenderOrder, scene: Scene, shots: Iterable[Shot]) -> None:
    for name in ("labels", "alpha", *(("pictures",) if order.stills else ())):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with VideoFile(folder / "picture.mp4", order.size, order.rate) as video:
        for frame, shot in enumerate(shots):
            video.write(shot.picture)
            (folder / "labels" / f"{frame:06d}.png").write_bytes(encode_png(shot.labels))
            (folder / "alpha" / f"{frame:06d}.png").write_bytes(encode_png(shot.alpha))
            if order.stills:
                (folder / "pictures" / f"{frame:06d}.png").write_bytes(encode_png(shot.picture))
            rows.append(_row(scene, frame, shot))
    writer = ParquetTableWriter(folder / "truth.parquet", PERFORMANCE)
    writer.write({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    writer.close()


def _row(scene: Scene, frame: int, shot: Shot) -> dict[str, Any]:
    performance = scene.performance
    return {
        "frame": np.int32(frame),
        "seconds": np.float64(frame / performance.frames_per_second),
        "pose": np.degrees(performance.pose[frame]),
        "rotation": shot.rotation.ravel(),
        "shift": performance.shift[frame],
        "sway": performance.sway[frame],
        "drift": performance.drift[frame],
        "expression": shot.expression,
        "landmarks": shot.landmarks.ravel(),
        "points68": shot.points68.ravel(),
        "shoulders": shot.shoulders.ravel(),
        "hand": np.bool_(np.isfinite(performance.hand[frame]).all()),
    }


def _description(model: HeadModel, order: RenderOrder, scene: Scene) -> dict[str, Any]:
    return {
        "recipe": _recipe(order, scene.number),
        "order": asdict(order),
        "act": scene.act,
        "camera": asdict(scene.camera),
        "room": asdict(scene.room),
        "person": {"identity": scene.person.identity.tolist(), "appearance": asdict(scene.person.appearance)},
        "other": {"identity": scene.other.identity.tolist(), "appearance": asdict(scene.other.appearance)}
        if order.swaps
        else None,
        "expressions": list(model.expression_names),
    }


def _recipe(order: RenderOrder, number: int) -> str:
    asked = {name: value for name, value in asdict(order).items() if name != "count"}
    return digest_value({"renderer": RENDERER_VERSION, "number": number, **asked})


def _complete(out: Path, order: RenderOrder, number: int) -> bool:
    return is_described(_clip(out, number) / DESCRIPTION, _recipe(order, number))


def _clip(out: Path, number: int) -> Path:
    return out / "clips" / f"{number:04d}"


def _write_lists(out: Path, order: RenderOrder) -> None:
    clips, jobs = [], []
    for number in range(order.count):
        folder = _clip(out, number)
        told = json.loads((folder / DESCRIPTION).read_text())
        row = {
            "id": f"{number:04d}",
            "act": told["act"],
            "hair": told["person"]["appearance"]["hair_style"],
            "room": told["room"]["kind"],
        }
        row |= {"picture": f"clips/{number:04d}/picture.mp4", "truth": f"clips/{number:04d}/truth.parquet"}
        if order.swaps:
            row |= {"portrait": f"portraits/{number:04d}.png", "swap": f"clips/{number:04d}/swap/picture.mp4"}
            jobs.append({"id": f"swap_{number:04d}", "source": row["portrait"], "target": row["picture"], "rights": "synthetic"})
        clips.append(row)
    for name, rows in (("performers.csv", clips), ("catalogue.csv", jobs)):
        if rows:
            write_whole(out / name, _as_csv(rows))
        else:
            (out / name).unlink(missing_ok=True)  # of an order with swaps
    if not order.swaps:
        with suppress(OSError):  # there is none, or clips beyond this order's have portraits in it
            (out / "portraits").rmdir()


def _as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def pack_head_model(folder: Path, out: Path) -> None:
    """Write the files of the ICT-FaceKit as one, which ``models add ict`` takes.

    Raises:
        UsageError: what is wrong with the files, or a place that cannot be written to.
    """
    content = packed(folder)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)
    except OSError as error:
        raise UsageError([f"{out} cannot be written: {error.strerror or error}."], "Give another file.") from error
