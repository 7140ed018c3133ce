"""Measuring the face model: what it refuses, and that its renders are the same whoever makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from flows import face_model
from flows.face_model import PEOPLE_PER_SHARD, SAMPLES_VERSION, build_face_model, load_samples, print_report
from schemas.problems import ModelError, UsageError
from stages.face3d import measuring
from stages.face3d.measuring import LEFT_OUT, WATCHED, Samples
from stages.face3d.model import FaceModel
from stages.performers import sampling
from stages.performers.appearance import Appearance
from stages.performers.head import HeadModel
from stages.performers.person import openness_of
from stages.performers.sampling import RENDERS_PER_PERSON, Sampler, random_expression, typical

PAIRS = ("mouthSmile", "browDown", *(f"eyeLook{way}" for way in ("In", "Out", "Up", "Down")))
NAMES = (*LEFT_OUT, "jawOpen", "mouthPucker", "cheekPuff", *(f"{stem}_{side}" for stem in PAIRS for side in "LR"))


def test_too_few_renders_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few"):
        build_face_model(tmp_path / "absent.npz", tmp_path / "out.npz", renders=500, seed=0, workers=1)
    assert not list(tmp_path.iterdir())


def made_up_samples(people: int) -> Samples:
    return Samples(
        person=np.arange(people, dtype=np.int32),
        identity=np.zeros((people, 60), np.float32),
        expression=np.zeros((people, len(NAMES)), np.float32),
        rotation=np.tile(np.eye(3, dtype=np.float32), (people, 1, 1)),
        truth=np.zeros((people, 478, 3), np.float32),
        landmarks=np.zeros((people, 478, 3), np.float32),
        names=NAMES,
    )


def with_shards(out: Path) -> Path:
    """A folder in which all shards of 2,000 renders lie, seed 0."""
    folder = out.with_name(out.name + ".parts") / f"v{SAMPLES_VERSION}-seed0"
    folder.mkdir(parents=True)
    for index in range(2_000 // (PEOPLE_PER_SHARD * RENDERS_PER_PERSON)):
        (folder / f"{index:05d}.npz").touch()
    return out


def test_the_report_says_on_how_many_renders_models_were_judged(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged: list[int] = []

    def judge(samples: Samples, people: npt.NDArray[np.integer], model: FaceModel) -> dict[str, Any]:
        judged.append(len(samples))
        correlations = dict.fromkeys(WATCHED, 0.5)
        errors = {"known_expression": 4.0, "fitted": 3.0, "pose_degrees": 1.94, "pose_degrees_same_axes": 1.83}
        return {**errors, "correlation": correlations, "correlation_within": correlations}

    monkeypatch.setattr(measuring, "_judge", judge)
    monkeypatch.setattr(face_model, "regress", lambda samples: FaceModel.builtin())
    monkeypatch.setattr(face_model, "load_samples", lambda shards, names: made_up_samples(3_000))
    head_model = shared / "models" / "ict" / "ict_facekit.npz"
    told = build_face_model(head_model, with_shards(tmp_path / "out.npz"), renders=2_000, seed=0, workers=1)
    assert judged == [told["judged_on"]] * 2
    assert (told["judged_on"], told["held_out"]) == (240, 300)
    print_report(told, Console(width=250))
    printed = capsys.readouterr().out
    assert "judged on 240 of 240 people, of 300 held out" in printed
    assert "1.94" in printed
    assert "1.83" in printed


def test_shards_of_another_head_model_are_not_mixed_in(tmp_path: Path) -> None:
    out = with_shards(tmp_path / "out.npz")
    head_model = tmp_path / "head.npz"
    for content in (b"one head model", b"one head model"):
        head_model.write_bytes(content)
        with pytest.raises(ModelError):  # of the made-up file; the shards were taken for its own
            build_face_model(head_model, out, renders=2_000, seed=0, workers=1)
    head_model.write_bytes(b"another")
    with pytest.raises(UsageError, match="another head model") as caught:
        build_face_model(head_model, out, renders=2_000, seed=0, workers=1)
    assert "--parts" in caught.value.remedy


def test_random_expressions_are_weights_and_do_not_look_both_ways() -> None:
    rng = np.random.default_rng(2)
    weights = np.stack([random_expression(NAMES, rng) for _ in range(200)])
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights[:, NAMES.index("jawOpen")].any()
    assert not weights[:, :2].any()
    assert not (weights[:, NAMES.index("eyeLookIn_L")] * weights[:, NAMES.index("eyeLookOut_L")]).any()


def test_shards_are_joined_without_pictures_that_show_no_face(tmp_path: Path) -> None:
    for index in range(2):
        landmarks = np.zeros((3, 478, 3), np.float32)
        landmarks[index] = np.nan
        np.savez(
            tmp_path / f"{index}.npz",
            person=np.full(3, index, np.int32),
            identity=np.zeros((3, 60), np.float32),
            expression=np.zeros((3, len(NAMES)), np.float32),
            rotation=np.tile(np.eye(3, dtype=np.float32), (3, 1, 1)),
            truth=np.zeros((3, 478, 3), np.float32),
            landmarks=landmarks,
        )
    samples = load_samples([tmp_path / "0.npz", tmp_path / "1.npz"], NAMES)
    assert samples.person.tolist() == [0, 0, 1, 1]


def test_a_person_is_the_same_alone_and_after_others(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HeadModel.load(shared / "models" / "ict" / "ict_facekit.npz")
    pictures: list[npt.NDArray[np.uint8]] = []
    measured: list[Appearance] = []

    def openness(model: HeadModel, base: npt.NDArray[np.float32], look: Appearance) -> npt.NDArray[np.float32]:
        measured.append(look)
        return openness_of(model, base, look)

    def detect(picture: npt.NDArray[np.uint8], guess: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.floating], float]:
        pictures.append(picture)
        return np.concatenate([guess, np.zeros((478, 1))], axis=1), 0.2 if len(pictures) % 2 else 1.0

    # Persons 0 and 4 wear the same kind of hair and clothes: what is found once for both must not hang on the first.
    monkeypatch.setattr(sampling, "openness_of", openness)
    first, alone = Sampler(model, detect, 7), Sampler(model, detect, 7)
    first.person(0)
    again = [sample for sampler in (first, alone) for sample in sampler.person(4)]
    for k in range(RENDERS_PER_PERSON):
        one, other = again[k], again[k + RENDERS_PER_PERSON]
        np.testing.assert_array_equal(one.expression, other.expression)
        np.testing.assert_array_equal(one.truth, other.truth)
        np.testing.assert_array_equal(pictures[RENDERS_PER_PERSON + k], pictures[2 * RENDERS_PER_PERSON + k])
    assert any(np.isnan(sample.landmarks).all() for sample in again)
    assert len(measured) == 2, "once by each sampler"


def test_openness_is_of_the_kind_not_of_the_person() -> None:
    one, other = replace(Appearance.drawn(2), glasses=0.0), Appearance.drawn(3)
    other = replace(other, hair_style=one.hair_style, clothes_style=one.clothes_style, glasses=0.3)
    assert typical(one) != typical(other)
    assert typical(replace(one, glasses=0.9)) == typical(other)
    assert typical(replace(one, hair_style="bob")).tips > typical(replace(one, hair_style="long")).tips
