"""Comparisons of masks and of what they give away: balanced, repeatable, resumable, and right about cases that are known."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest

from flows.comparisons import Order, leakage, masks
from flows.comparisons.clips import ROOMS, ClipOrder, render_for_comparison, scene_of, truth_pictures
from schemas.comparisons import MASK_MEASURES, PLATE_MEASURES
from schemas.tables import LABELS
from stages.performers.head import HeadModel
from tests.stages.painting import paint_person


@pytest.fixture(scope="module")
def head_model(shared: Path) -> Path:
    return shared / "models" / "ict" / "ict_facekit.npz"


def test_clips_cross_every_room_with_every_camera_and_framing(head_model: Path) -> None:
    model, order = HeadModel.load(head_model), ClipOrder(frames=4)
    scenes = [scene_of(model, order, number) for number in range(24)]
    crossed = collections.Counter((told.room, told.camera, told.framing) for _, told in scenes)
    assert set(crossed.values()) == {1}
    assert len(crossed) == len(ROOMS) * 4
    assert {told.hair for _, told in scenes} >= {"long", "bob", "bald", "curly"}
    for scene, told in scenes:
        assert (np.abs(scene.performance.drift).max() > 0.1) == (told.camera == "moving")
        assert (scene.person.appearance.beard > 0) == told.beard
    assert scene_of(model, order, 7)[1] == scenes[7][1]


def test_a_clip_is_rendered_once_with_a_truth_for_every_frame(head_model: Path, tmp_path: Path) -> None:
    order = ClipOrder(frames=2, size=96)
    folder = render_for_comparison(head_model, tmp_path, order, 8)
    before = (folder / "picture.mp4").stat().st_mtime_ns
    for name in ("labels", "alpha", "room"):
        assert len(list(truth_pictures(folder, name))) == 2
    assert render_for_comparison(head_model, tmp_path, order, 8) == folder
    assert (folder / "picture.mp4").stat().st_mtime_ns == before
    # Nor is half a description, as an older version may have left it, in the way.
    (folder / "clip.json").write_text((folder / "clip.json").read_text()[:30])
    assert render_for_comparison(head_model, tmp_path, order, 8) == folder
    assert (folder / "picture.mp4").stat().st_mtime_ns > before
    # A shorter clip in the same place leaves nothing of the longer one.
    assert render_for_comparison(head_model, tmp_path, ClipOrder(frames=1, size=96), 8) == folder
    assert len(list(truth_pictures(folder, "labels"))) == 1


def _row(clip: int, value: float, way: str = "colour") -> dict[str, object]:
    measured = dict.fromkeys((*MASK_MEASURES, *PLATE_MEASURES), value)
    return {"clip": clip, "frame": 0, "hair_model": way, "detected": True, **measured}


def test_the_summary_counts_each_clip_once_and_by_its_conditions() -> None:
    names = ("room", "camera", "framing", "hair", "clothes", "beard", "glasses", "act")
    conditions = {clip: dict.fromkeys(names, "same") | {"room": f"room{clip}"} for clip in range(3)}
    rows = [_row(0, 1.0), _row(0, 0.0), _row(1, 0.5), _row(2, float("nan")), _row(2, 0.8)]
    measured = masks.summarise(rows, conditions, seed=0)
    assert measured["colour"]["all"]["iou_hair"][0] == pytest.approx((0.5 + 0.5 + 0.8) / 3, abs=1e-4)
    assert measured["colour"]["room=room2"]["iou_hair"] == [0.8, 0.8, 0.8]
    assert measured["colour"]["camera=same"]["clips"] == 3
    whole, by_condition = masks.tables(measured)
    assert [value[:7] for name, value in whole.rows if name == "hair IoU"] == ["0.600 ("]
    assert len(by_condition.rows) == 3 + len(names) - 1


def test_intervals_are_drawn_with_the_seed_of_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("room", "camera", "framing", "hair", "clothes", "beard", "glasses", "act")
    values = np.random.default_rng(1).uniform(size=6)
    monkeypatch.setenv("HEADSWAP_MODELS", str(tmp_path / "no models"))
    monkeypatch.setattr(masks, "render_for_comparison", lambda head_model, out, clips, number: out / f"{number}")
    monkeypatch.setattr(masks, "run_stages", lambda *_: {})
    monkeypatch.setattr(masks, "_measured", lambda out, folder, number, way, artifacts: [_row(number, values[number])])
    monkeypatch.setattr(masks, "_sheets", lambda *_: [])
    monkeypatch.setattr(masks, "conditions_of", lambda folder: dict.fromkeys(names, "same"))
    rows = [_row(number, value) for number, value in enumerate(values)]
    for seed in (5, 6):
        found = masks.compare(Order(tmp_path / "head.npz", tmp_path, 6, seed))
        expected = masks.summarise(rows, dict.fromkeys(range(6), dict.fromkeys(names, "same")), seed)
        assert found.numbers["measured"] == expected
    assert expected != masks.summarise(rows, dict.fromkeys(range(6), dict.fromkeys(names, "same")), 0)


def _silhouettes(count: int) -> list[leakage.Silhouette]:
    """Painted people whose heads differ in width, on shoulders that are all the same."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        _, labels, _ = paint_person(np.zeros((256, 256, 3), np.uint8), (128, 110), 90, long_hair=bool(number % 2))
        labels[:150] = 0
        half, rows = 30 + 30 * rng.uniform(), slice(50, 150)
        labels[rows, round(128 - half) : round(128 + half)] = LABELS.index("hair")
        outline = np.array([half, number % 2, 0.0, half * half])
        shoulders = np.array([[190, 200, 1], [66, 200, 1]], np.float32)
        found.append(leakage.Silhouette(labels, shoulders, outline, "long" if number % 2 else "short"))
    return found


def test_the_exact_mask_gives_the_width_away_blocks_less_and_a_box_hardly() -> None:
    people = _silhouettes(60)
    outlines = np.stack([person.outline for person in people])
    heads = np.stack([leakage.shares(np.isin(person.labels, (1, 2)), leakage.WANTED).ravel() for person in people])
    strangers = leakage.strange_hair(people, 0)
    told = {
        exposure.name: leakage.measure(exposure, people, strangers, outlines, heads, 0)
        for exposure in leakage.HOLES
        if exposure.name in ("exact mask", "16x16 blocks (default)", "box around all 16x16 blocks")
    }
    exact, default, coarse = told.values()
    assert exact["width"][0] > 0.95
    assert exact["width"][0] > default["width"][0] > coarse["width"][0]
    assert exact["head IoU"][0] > coarse["head IoU"][0] - 0.02
    assert exact["width"][1] <= exact["width"][0] <= exact["width"][2]


def test_a_stranger_is_never_oneself_and_has_long_hair() -> None:
    people = _silhouettes(6)
    for k, hair in enumerate(leakage.strange_hair(people, 3)):
        assert hair.any()
        long = [leakage.hair_blocks(other) for j, other in enumerate(people) if j != k and other.style == "long"]
        assert any(np.array_equal(hair, shown) or np.array_equal(hair, shown[:, ::-1]) for shown in long)
    assert not leakage.strange_hair(people[:1], 3)[0].any()


def test_people_are_measured_in_their_crop(head_model: Path) -> None:
    arrays = leakage.render_person(str(head_model), 0, 5)
    labels = arrays["labels"]
    assert labels.shape == (leakage.SIZE, leakage.SIZE)
    rows = np.flatnonzero((labels == LABELS.index("face")).any(1))
    assert 0.1 < rows.min() / leakage.SIZE < 0.45 < rows.max() / leakage.SIZE < 0.8
    assert (arrays["shoulders"][:, 1] > rows.max()).all()
    assert 0.6 < arrays["outline"][0] < 1.8
