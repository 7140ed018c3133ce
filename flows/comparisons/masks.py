"""Label maps and background plates of the real stages against rendered truth."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flows.comparisons import Order, Outcome, ResultTable
from flows.comparisons.clips import (
    ClipOrder,
    conditions_of,
    render_for_comparison,
    run_stages,
    truth_pictures,
    with_hair,
)
from flows.contact_sheet import Tile, contact_sheet, overlay_labels, save_sheet
from schemas.comparisons import MASK_COMPARISON, MASK_MEASURES, PLATE_MEASURES
from schemas.configuration import Settings, load_settings
from stages.metrics import masks as measures
from stages.metrics.retargeting import bootstrap_interval
from stages.networks.registry import ModelRegistry
from stages.plates import background_crop
from stages.video.crops import crop_matrix, extract_crop, opencv_matrix
from stages.video.decode import open_clip
from storage.artifacts import Artifact
from storage.keys import digest_value
from storage.store import ArtifactStore
from storage.tables import ParquetTableWriter, array, read

RIM = 12.0
"""Width of a hole's rim, pixels of the crop."""

WORST = 8
"""Clips on each sheet, with their worst frame each."""

HAIR_MODELS = ("colour", "network")
"""How the masks stage finds hair: without any file, and with MediaPipe's network where it is registered."""

LEGEND = {
    "iou_hair": "hair IoU",
    "iou_head": "head IoU",
    "iou_cloth": "cloth IoU",
    "iou_person": "person IoU",
    "cloth_as_hair": "cloth taken for hair",
    "hair_as_cloth": "hair taken for cloth",
    "boundary_hair": "hair border, px",
    "boundary_person": "person border, px",
    "plate_hole": "plate in the hole",
    "plate_psnr": "PSNR, dB",
    "plate_rim": "at its rim",
    "plate_around": "around it",
    "plate_flicker": "flicker",
}
"""Measures that the tables show, and what they are called there."""


def compare(order: Order) -> Outcome:
    """Render clips, run the stages on them, and measure every frame; ``order.pairs`` is the number of clips.

    Writes, below ``order.out``: ``clips/`` (the truth), ``store/`` (what the stages wrote), ``masks.parquet`` (one row per frame,
    way of finding hair and clip), and ``sheets/`` (the worst frames). The hair network's column is there where it is registered.
    """
    settings = load_settings(environment=os.environ)
    registry = ModelRegistry(settings.models)
    clips = ClipOrder(count=order.pairs, seed=order.seed)
    ways = [way for way in HAIR_MODELS if way != "network" or registry.path("hair_segmentation") is not None]
    rows: list[dict[str, Any]] = []
    folders: dict[int, Path] = {}
    with ArtifactStore.open(order.out / "store") as store:
        for number in range(clips.count):
            folders[number] = render_for_comparison(order.head_model, order.out / "clips", clips, number)
            for position, way in enumerate(ways):
                artifacts = run_stages(folders[number] / "picture.mp4", store, with_hair(settings, way), registry)
                rows += _measured(order.out, folders[number], number, way, artifacts)
                if order.tell is not None:
                    order.tell(number * len(ways) + position + 1, clips.count * len(ways))
        _write(order.out / "masks.parquet", rows)
        files = [order.out / "masks.parquet"]
        for way in ways:
            files += _sheets(order.out / "sheets", rows, folders, way, store, with_hair(settings, way), registry)
    conditions = {number: conditions_of(folder) for number, folder in folders.items()}
    measured = summarise(rows, conditions, order.seed)
    return Outcome({"clips": asdict(clips), "hair": ways, "measured": measured}, tables(measured), files)


def _measured(out: Path, folder: Path, number: int, way: str, artifacts: Mapping[str, list[Artifact]]) -> list[dict[str, Any]]:
    """The rows of one clip; taken from ``out/parts`` where the artifacts are those that were measured before."""
    told = json.loads((folder / "clip.json").read_text())
    digests = [artifact.digest for name in ("track", "masks", "inpaint") for artifact in artifacts[name]]
    path = out / "parts" / f"{digest_value({'recipe': told['recipe'], 'way': way, 'inputs': digests, 'rim': RIM})}.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, measure_clip(folder, number, way, artifacts))
    return [dict(row) for row in read(path).to_pylist()]


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    writer = ParquetTableWriter(partial, MASK_COMPARISON)
    writer.write({column.name: np.asarray([row[column.name] for row in rows]) for column in MASK_COMPARISON.columns})
    writer.close()
    partial.replace(path)


@dataclass
class ComparedFrame:
    """One frame in crop pixels: what the stages found, and the truth."""

    frame: int
    detected: bool
    rgb: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    true_labels: npt.NDArray[np.uint8]
    plate: npt.NDArray[np.uint8]
    true_room: npt.NDArray[np.uint8]
    hole: npt.NDArray[np.bool_]
    """Where the person is, in truth, by any share of a pixel."""
    inside: npt.NDArray[np.bool_]
    """Of the picture: a crop may reach beyond it."""


def compared_frames(folder: Path, artifacts: Mapping[str, list[Artifact]]) -> Iterable[ComparedFrame]:
    """Every frame of a clip with its truth, in the crop of the track stage."""
    (track,), (inpaint,) = artifacts["track"], artifacts["inpaint"]
    subject, plates = track.table("subject", columns=["detected", "crop"]), inpaint.table("plates")
    crops, detected = array(subject, "crop"), array(subject, "detected")
    order = np.argsort(array(plates, "frame"))
    which, transforms = array(plates, "plate")[order], array(plates, "transform")[order]
    pictures = inpaint.pictures("plates")
    labels = {
        frame: artifact.pictures("labels") for artifact in artifacts["masks"] for frame in artifact.pictures("labels").frames
    }
    truths = zip(*(truth_pictures(folder, name) for name in ("labels", "alpha", "room")), strict=True)
    with open_clip(folder / "picture.mp4") as clip:
        for (number, rgb), (true_labels, alpha, room) in zip(clip.iterate(), truths, strict=True):
            found, crop = labels[number].read(number), crops[number]
            size = found.shape[0]
            inside = _in_crop(np.ones(rgb.shape[:2], np.uint8), crop, size) > 0
            yield ComparedFrame(
                number,
                bool(detected[number]),
                extract_crop(rgb, crop, size),
                found,
                _in_crop(true_labels, crop, size),
                background_crop(pictures.read(int(which[number])), transforms[number], crop, size),
                extract_crop(room, crop, size),
                _in_crop(alpha, crop, size) > 0,
                inside,
            )


def _in_crop(labels: npt.NDArray[np.uint8], crop: npt.NDArray[np.floating], size: int) -> npt.NDArray[np.uint8]:
    """A label map of a frame in a crop, nearest pixel; zero beyond the frame. uint8 [size, size]."""
    matrix = opencv_matrix(crop_matrix(crop, size))
    return np.asarray(cv2.warpAffine(labels, matrix, (size, size), flags=cv2.INTER_NEAREST), np.uint8)


def measure_clip(folder: Path, number: int, way: str, artifacts: Mapping[str, list[Artifact]]) -> list[dict[str, Any]]:
    """One row of ``schemas.comparisons.MASK_COMPARISON`` for every frame of a clip."""
    frames = list(compared_frames(folder, artifacts))
    holes = [shown.hole & shown.inside for shown in frames]
    flicker = measures.flicker_error([shown.plate for shown in frames], [shown.true_room for shown in frames], holes)
    rows = []
    for shown, hole, change in zip(frames, holes, flicker, strict=True):
        near = cv2.dilate(hole.astype(np.uint8), np.ones((2 * int(RIM) + 1,) * 2, np.uint8)) > 0
        rows.append(
            {
                "clip": number,
                "frame": shown.frame,
                "hair_model": way,
                "detected": shown.detected,
                **measures.label_measures(shown.labels, shown.true_labels, shown.inside),
                "plate_hole": measures.absolute_error(shown.plate, shown.true_room, hole),
                "plate_psnr": measures.peak_signal_to_noise(shown.plate, shown.true_room, hole),
                "plate_rim": measures.absolute_error(shown.plate, shown.true_room, measures.rim(hole, RIM)),
                "plate_around": measures.absolute_error(shown.plate, shown.true_room, near & ~hole & shown.inside),
                "plate_flicker": change,
            }
        )
    return rows


def _sheets(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    folders: Mapping[int, Path],
    way: str,
    store: ArtifactStore,
    settings: Settings,
    registry: ModelRegistry,
) -> list[Path]:
    """The worst frame of each of the ``WORST`` worst clips, by hair, by cloth and by the rim of the plate's hole."""
    files = []
    for name, sign in (("iou_hair", 1), ("iou_cloth", 1), ("plate_rim", -1)):
        worst: dict[int, Mapping[str, Any]] = {}
        for row in rows:
            if row["hair_model"] == way and np.isfinite(row[name]):
                so_far = worst.get(row["clip"])
                if so_far is None or sign * row[name] < sign * so_far[name]:
                    worst[row["clip"]] = row
        tiles = []
        for row in sorted(worst.values(), key=lambda row: sign * float(row[name]))[:WORST]:
            artifacts = run_stages(folders[row["clip"]] / "picture.mp4", store, settings, registry)
            frames = compared_frames(folders[row["clip"]], artifacts)
            tiles += _tiles(next(shown for shown in frames if shown.frame == row["frame"]), row, name)
        if tiles:
            files.append(save_sheet(contact_sheet(tiles, f"worst by {LEGEND[name]}, hair by {way}"), out / f"{name}-{way}.png"))
    return files


def _tiles(shown: ComparedFrame, row: Mapping[str, Any], name: str) -> list[Tile]:
    wrong = np.where(((shown.labels != shown.true_labels) & shown.inside)[..., None], np.uint8(255), shown.rgb // 3)
    room = np.where(shown.inside[..., None], shown.true_room, np.uint8(0))
    return [
        Tile(shown.rgb, f"clip {row['clip']} frame {row['frame']}: {row[name]:.3f}"),
        Tile(overlay_labels(shown.rgb, shown.labels), "found"),
        Tile(overlay_labels(shown.rgb, shown.true_labels), "truth"),
        Tile(np.asarray(wrong, np.uint8), "wrong labels in white"),
        Tile(shown.plate, "plate"),
        Tile(np.asarray(room, np.uint8), "the room without anybody"),
    ]


# --------------------------------------------------------------------------------------------------------------- summary


def summarise(rows: Sequence[Mapping[str, Any]], conditions: Mapping[int, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Mean over clips (each the mean of its frames) with a 95 % bootstrap interval, of everything and by condition.

    Args:
        rows: of ``schemas.comparisons.MASK_COMPARISON``. conditions: by number of the clip (``conditions_of``).
        seed: of what the bootstrap draws.

    Returns:
        ``{way: {"all": {"clips": n, measure: [mean, low, high], ...}, "room=shelf": ..., ...}}``
    """
    result: dict[str, Any] = {}
    for way in dict.fromkeys(str(row["hair_model"]) for row in rows):
        clips: dict[int, dict[str, float]] = {}
        for number in dict.fromkeys(int(row["clip"]) for row in rows):
            own = [row for row in rows if row["clip"] == number and row["hair_model"] == way]
            clips[number] = {name: _mean([row[name] for row in own]) for name in (*MASK_MEASURES, *PLATE_MEASURES)}
            clips[number]["detected"] = _mean([float(row["detected"]) for row in own])
        groups: dict[str, list[int]] = {"all": list(clips)}
        for name in ("room", "camera", "framing", "hair", "clothes", "beard", "glasses", "act"):
            for number in clips:
                groups.setdefault(f"{name}={conditions[number][name]}", []).append(number)
        result[way] = {
            group: {
                "clips": len(members),
                **{name: _interval([clips[k][name] for k in members], seed) for name in clips[members[0]]},
            }
            for group, members in sorted(groups.items())
        }
    return result


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _interval(values: Sequence[float], seed: int) -> list[float | None]:
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return [None, None, None]
    found = (_mean(finite), *bootstrap_interval(finite, np.arange(len(finite)), seed=seed))
    return [round(value, 4) for value in found]


def tables(measured: Mapping[str, Any]) -> list[ResultTable]:
    """For each way of finding hair: all clips with intervals, then by condition."""
    found = []
    for way, groups in measured.items():
        whole = [(LEGEND[name], _cell(groups["all"][name], interval=True)) for name in LEGEND]
        title = f"hair by {way}, mean of {groups['all']['clips']} clips (95 % interval)"
        found.append(ResultTable(title, ("measure", "value"), tuple(whole)))
        rows = [
            (group, str(values["clips"]), *(_cell(values[name]) for name in LEGEND))
            for group, values in groups.items()
            if group != "all"
        ]
        found.append(ResultTable(f"hair by {way}, by condition", ("clips with", "n", *LEGEND.values()), tuple(rows)))
    return found


def _cell(value: Sequence[float | None], *, interval: bool = False) -> str:
    mean, low, high = value
    if mean is None:
        return ""
    return f"{mean:.3f} ({low:.3f} to {high:.3f})" if interval else f"{mean:.3f}"
