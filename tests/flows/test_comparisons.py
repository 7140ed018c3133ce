"""Comparisons with the truth: resumable, honest about what nobody knows, and written in three forms."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numba
import numpy as np
import pytest

from flows import comparisons
from flows.comparisons import COMPARISONS, Order, Outcome, ResultTable, comparison, resumable, run_comparison
from flows.comparisons import edits as edits_comparison
from flows.comparisons import retargeting as retargeting_comparison
from flows.comparisons.casts import PAIRS, Act, Cast, Studio, own_expression, telling_frames
from schemas.problems import UsageError
from stages.face3d.fitting import Poses, rotation_from_euler
from stages.face3d.model import FaceModel
from stages.face3d.retargeting import closed_lips
from stages.face3d.topology import EYES
from stages.performers.appearance import Room
from stages.performers.head import HeadModel
from stages.performers.performance import perform
from stages.processes import THREAD_SETTINGS
from tests.conftest import ROOT

MODEL = FaceModel.builtin()


def counting(path: str, seed: int, number: int) -> dict[str, np.ndarray]:
    with (Path(path).parent / "calls.txt").open("a") as file:
        file.write(f"{number}\n")
    return {"value": np.array([seed, number])}


def threads(path: str, seed: int, number: int) -> dict[str, np.ndarray]:
    return {"threads": np.array([numba.get_num_threads(), cv2.getNumThreads()])}


def order(tmp_path: Path, pairs: int = 3) -> Order:
    return Order(tmp_path / "head.npz", tmp_path / "out", pairs, seed=5)


def weights(**named: float) -> np.ndarray:
    vector = np.zeros(len(MODEL.names))
    for name, value in named.items():
        vector[list(MODEL.indices(name))] = value
    return vector


def posed(shapes: np.ndarray) -> np.ndarray:
    count = len(shapes)
    turns = rotation_from_euler(np.stack([np.linspace(-8, 8, count), np.zeros(count), np.zeros(count)], axis=1))
    tremor = 0.002 * np.random.default_rng(int(1e6 * np.abs(shapes).sum())).normal(size=shapes.shape)
    return Poses(turns, np.full((count, 3), 120.0), np.full(count, 60.0)).project(shapes + tremor)


def made_up_cast() -> Cast:
    """Three people of the face model; what they do is known."""
    rng = np.random.default_rng(0)
    acts = np.stack([weights(), weights(jawOpen=0.6), weights(mouthSmile=0.7), weights(eyeBlink=1.0), weights(browOuterUp=0.7)])
    rest = np.stack([closed_lips(MODEL.shape(0.8 * rng.normal(size=len(MODEL.identity)))) for _ in range(3)])
    shapes = rest[:, None] + MODEL.displacement(acts)
    for eye in EYES:
        shapes[:, 3, list(eye.upper), 1] = shapes[:, 3, list(eye.lower), 1]
    frames = np.stack([posed(person) for person in shapes])
    portraits = np.stack([posed((face + MODEL.displacement(weights(mouthSmile=0.8)))[None])[0] for face in rest])
    at_rest = np.stack([posed(face[None])[0] for face in rest])
    kinds = ("seen", "true", "alike")
    return Cast(
        expression=acts,
        own_expression=np.zeros((3, 57)),
        presence=np.ones((3, 5)),
        **dict.fromkeys(kinds, frames),
        **{f"portrait_{kind}": portraits for kind in kinds},
        **{f"rest_{kind}": at_rest for kind in kinds},
    )


def test_what_was_made_is_not_made_again(tmp_path):
    first = resumable(order(tmp_path, 2), "things", counting)
    again = resumable(order(tmp_path, 3), "things", counting)
    assert again[:2] == first
    assert (tmp_path / "calls.txt").read_text().split() == ["0", "1", "2"]
    with np.load(again[2]) as arrays:
        assert arrays["value"].tolist() == [5, 2]


def test_processes_that_make_things_have_one_thread(tmp_path, monkeypatch):
    for name in THREAD_SETTINGS:
        monkeypatch.setenv(name, "3")  # as on a machine with more cores than this one may have
    for file in resumable(order(tmp_path, 2), "threads", threads):
        with np.load(file) as arrays:
            assert arrays["threads"].tolist() == [1, 1]


def test_an_unknown_comparison_and_too_few_pairs_are_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing"):
        comparison("nothing")
    with pytest.raises(UsageError, match="too few"):
        run_comparison("edits", order(tmp_path, 1))
    # All pairs of one cast share people: nothing to draw an interval from.
    with pytest.raises(UsageError, match="too few") as caught:
        run_comparison("retargeting", order(tmp_path, PAIRS))
    assert f"--pairs {PAIRS + 1}" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_folder_that_does_not_serve_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(edits_comparison, "compare", lambda order: Outcome({}, []))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="out cannot be used"):
        run_comparison("edits", order(tmp_path))
    (tmp_path / "out").unlink()
    (tmp_path / "head.npz").write_bytes(b"one head model")
    for _ in range(2):
        run_comparison("edits", order(tmp_path))
    (tmp_path / "head.npz").write_bytes(b"another")
    with pytest.raises(UsageError, match="another head model"):
        run_comparison("edits", order(tmp_path))


def test_every_comparison_has_a_module_that_compares():
    for one in COMPARISONS.values():
        module = pytest.importorskip(one.module)
        assert callable(module.compare)


def test_a_comparison_is_written_as_json_and_markdown(tmp_path, monkeypatch):
    table = ResultTable("errors", ("method", "all"), (("one", "1.00"), ("two", "0.50")))
    monkeypatch.setattr(edits_comparison, "compare", lambda order: Outcome({"best": "two"}, [table]))
    told, outcome = run_comparison("edits", order(tmp_path))
    assert json.loads((tmp_path / "out/edits.json").read_text()) == {
        "comparison": "edits",
        "pairs": 3,
        "seed": 5,
        "best": "two",
    }
    assert "| two | 0.50 |" in (tmp_path / "out/edits.md").read_text()
    assert len(told["files"]) == 2
    assert outcome.tables == [table]


def test_the_sources_smile_costs_those_who_do_not_take_it_away():
    rows = retargeting_comparison.measure_cast(made_up_cast(), [0.8] * 3, kinds=("detected",))
    assert len(rows) == 6 * len(retargeting_comparison.METHODS)
    told = retargeting_comparison._summary(rows, seed=0)
    mouth = {name: one["errors"]["mouth"][0] for name, one in told.items()}
    assert max(mouth["both (the paper)"], mouth["ours"]) < 0.7 * mouth["naive delta"]
    assert mouth["(true faces at rest)"] < 0.5 * mouth["both (the paper)"]
    assert told["both (the paper)"]["less_than_paper"]["all"] == [0, None, None]
    assert told["ours"]["kept"]["eyes_closed"]["cases"] > 0
    assert told["ours"]["kept"]["eyes_closed"]["held"] == told["ours"]["kept"]["eyes_closed"]["cases"]


def test_what_ours_has_less_is_told_as_the_document_shows_it():
    kinds = ("detected", "exact")
    rows = retargeting_comparison.measure_cast(made_up_cast(), [0.8] * 3, kinds)
    # Other casts, in which everybody's errors are larger and those of ours are not: the interval says how surely it is better.
    rows += [
        {**row, "pair": row["pair"] + PAIRS * cast, "all": row["all"] + (cast if row["method"] != "ours" else 0)}
        for row in rows
        for cast in (1, 2)
    ]
    measured = {kind: retargeting_comparison._summary([row for row in rows if row["landmarks"] == kind], 0) for kind in kinds}
    naive, ours = (
        [row["all"] for row in rows if (row["landmarks"], row["method"]) == ("exact", name)] for name in ("naive delta", "ours")
    )
    mean, low, high = measured["exact"]["naive delta"]["ours_less"]["all"]
    assert mean == pytest.approx(np.mean(naive) - np.mean(ours), abs=1e-3)
    assert low == pytest.approx(mean - 1, abs=1e-3)
    assert high == pytest.approx(mean + 1, abs=1e-3)
    *_, table = retargeting_comparison.tables(measured)
    written = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in (ROOT / "docs/retargeting.md").read_text().split("\n")
    ]
    start = next(number for number, line in enumerate(written) if line[0] == "less than")
    assert list(table.columns) == written[start]
    assert [row[0] for row in table.rows] == [line[0] for line in written[start + 2 : start + 2 + len(table.rows)]]
    assert table.rows[0][-1] == f"{mean:.2f} ({low:.2f} to {high:.2f})"


def test_one_cast_alone_has_no_interval():
    rows = retargeting_comparison.measure_cast(made_up_cast(), [0.8] * 3)
    measured = {
        kind: retargeting_comparison._summary([row for row in rows if row["landmarks"] == kind], 0)
        for kind in retargeting_comparison.KINDS
    }
    cells = [cell for table in retargeting_comparison.tables(measured) for row in table.rows for cell in row]
    assert not [cell for cell in cells if "±" in cell or " to " in cell]


def test_a_sitter_is_seen_alike_whoever_sat_before(shared):
    path = str(shared / "models" / "ict" / "ict_facekit.npz")
    names, room, nowhere = HeadModel.load(Path(path)).expression_names, Room(), np.zeros(3, np.float32)
    act = Act(np.zeros(len(names), np.float32), nowhere, nowhere, nowhere)
    busy, seen = Studio(path), []
    for number, place in ((4, busy), (8, busy), (8, Studio(path))):  # both have long hair, parted elsewhere
        sitter = place.sitter(np.random.default_rng(number), room)
        seen.append(sitter.shoot(act, np.random.default_rng(0)).seen)
    np.testing.assert_array_equal(seen[1], seen[2])


def test_the_plot_is_small(tmp_path):
    errors = {error: [2.0, 1.8, 2.2] for error in ("all", "eyes", "brows", "mouth")}
    measured = {kind: {name: {"errors": errors} for name in retargeting_comparison.METHODS} for kind in ("detected", "exact")}
    retargeting_comparison.draw(measured, tmp_path / "plot.png")
    assert 5_000 < (tmp_path / "plot.png").stat().st_size < 200_000


NAMES = ("jawOpen", "mouthSmile_L", "mouthSmile_R", "cheekSquint_L", "cheekSquint_R", "eyeBlink_L", "eyeBlink_R", "browDown_L")
ALL_NAMES = (*MODEL.names, "PupilDilate_L", "PupilDilate_R")


def test_telling_frames_have_the_deepest_blink_and_the_widest_mouth():
    performance = perform(ALL_NAMES, 100, 25, seed=3)
    frames = telling_frames(performance, ALL_NAMES, 16)
    assert len(set(frames)) == 16
    assert frames == sorted(frames)
    jaw, blink = ALL_NAMES.index("jawOpen"), ALL_NAMES.index("eyeBlink_L")
    assert performance.expression[frames, jaw].max() == performance.expression[:, jaw].max()
    assert performance.expression[frames, blink].max() == performance.expression[:, blink].max()


def test_portraits_smile():
    drawn = np.stack([own_expression(NAMES, np.random.default_rng(seed)) for seed in range(20)])
    assert drawn[:, 1:3].min() > 0.3
    assert drawn.max() <= 1
    assert comparisons.COMPARISONS["retargeting"].pairs >= 200
