"""Training samples of rendered people: exact, the same in every process, held-out performances never seen in training."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from stages.crop_path import DROP, head_anchor
from stages.performers.appearance import linear
from stages.performers.casting import Person
from stages.segmentation import CLOTH
from stages.training.augmentation import COMPOSITION, NO_AUGMENTATION
from stages.training.hair_bank import long_hair, render_masks
from stages.training.performer_data import CROP_SCALE, Clip, PerformerSamples, Split, remove_abandoned
from tests.stages.training.test_shards import fingerprint

SIZE, FRAMES = 64, 7


@pytest.fixture(scope="module")
def head_model(shared: Path) -> Path:
    return shared / "models" / "ict" / "ict_facekit.npz"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def source(
    head_model: Path, cache: Path, split: Split = "train", *, plain: bool = False, foreign_references: float = 0.0
) -> PerformerSamples:
    return PerformerSamples(
        head_model,
        cache,
        people=2,
        size=SIZE,
        seed=3,
        performances=3,
        frames=FRAMES,
        split=split,
        augmentation=NO_AUGMENTATION if plain else None,
        foreign_references=foreign_references,
    )


BODY = ("cloth", "clothes_style", "build", "hand_skin")


def unrendered(people: int = 5, split: Split = "train") -> PerformerSamples:
    """As `headswap train --data performers:` opens them, where nothing needs to be rendered."""
    return PerformerSamples(Path("none.npz"), Path("none"), people=people, size=64, seed=11, split=split)


def body_of(shown: Person) -> tuple[object, ...]:
    return tuple(getattr(shown.appearance, name) for name in BODY)


def head_of(shown: Person) -> tuple[object, ...]:
    look = {name: value for name, value in vars(shown.appearance).items() if name not in BODY}
    return (shown.identity.tobytes(), *look.items())


def test_samples_hold_what_the_contract_says(head_model: Path, cache: Path) -> None:
    samples = source(head_model, cache)
    for number in range(6):
        one = samples.sample(number, 3)
        assert one.reference.shape == (SIZE, SIZE, 3)
        assert one.target.shape == one.drawing.shape == one.background.shape == (3, SIZE, SIZE, 3)
        assert one.head.shape == (3, SIZE, SIZE)
        assert one.head.dtype == bool
        assert one.face_points.shape == (3, 5, 2)
        assert one.face_points.dtype == np.float32
        assert one.person == samples.name(number % 2)
        assert one.frame_numbers == tuple(range(one.frame_numbers[0], one.frame_numbers[0] + 3))
        assert one.drawing.any()
        assert (one.reference[[0, -1]] == 255).all()
        assert 0.05 < one.head.mean() < 0.6
        points = one.face_points[0].astype(int)
        assert one.head[0][points[:, 1], points[:, 0]].mean() >= 0.6


def test_the_condition_is_the_target_without_head_and_shoulders(head_model: Path, cache: Path) -> None:
    one = source(head_model, cache, plain=True).sample(0, 2)
    same = np.abs(one.target.astype(int) - one.background).max(-1) <= 1
    assert not (same & one.head).sum() > 0.02 * one.head.sum()
    assert same[:, :8, :8].all()


def test_crops_are_the_pipelines(head_model: Path, cache: Path) -> None:
    samples = source(head_model, cache)
    clip = samples.clip(0, 0)
    anchors = head_anchor(clip.landmarks.astype(np.float64))
    assert np.quantile(anchors[:, 2], 0.75) == pytest.approx(SIZE / CROP_SCALE, rel=0.01)
    assert np.median(anchors[:, 0]) == pytest.approx(SIZE / 2, abs=0.06 * SIZE)
    assert np.median(anchors[:, 1] + DROP * anchors[:, 2]) == pytest.approx(SIZE / 2, abs=0.06 * SIZE)


def test_held_out_performances_are_others(head_model: Path, cache: Path) -> None:
    known, held_out = source(head_model, cache), source(head_model, cache, "held_out")
    assert not set(known.performances) & set(held_out.performances)
    pictures = {known.clip(0, performance).pictures.tobytes() for performance in known.performances}
    assert held_out.clip(0, held_out.performances[0]).pictures.tobytes() not in pictures
    assert known.name(0) == held_out.name(0)


def test_performances_of_one_person_differ_in_clothes_and_not_in_head() -> None:
    for samples in (unrendered(), unrendered(split="held_out")):
        assert len({head_of(samples.dressed(person, 0)) for person in samples.people}) == 5
    for person in samples.people:
        shown = [samples.dressed(person, performance) for performance in range(6)]
        assert len({head_of(one) for one in shown}) == 1
        assert len({body_of(one) for one in shown}) == 6
        assert len({one.appearance.cloth for one in shown}) > 1
        assert len({one.appearance.skin for one in shown}) == 1  # the neck is the head's
        again = [unrendered().dressed(person, performance) for performance in range(6)]
        assert [(head_of(one), body_of(one)) for one in again] == [(head_of(one), body_of(one)) for one in shown]


def test_a_body_does_not_tell_the_person() -> None:
    samples = unrendered()
    worn = defaultdict(set)
    for person in samples.people:
        for performance in samples.performances:
            worn[body_of(samples.dressed(person, performance))].add(person)
    assert min(len(people) for people in worn.values()) >= 2
    everybody = unrendered(people=8)
    assert {frozenset(body_of(everybody.dressed(person, k)) for k in range(8)) for person in range(8)} == {
        frozenset(body_of(everybody.dressed(0, k)) for k in range(8))
    }


def test_a_room_goes_with_a_body_so_that_both_together_do_not_tell_the_person() -> None:
    samples = unrendered()
    shown = defaultdict(set)
    for person in samples.people:
        for performance in samples.performances:
            shown[body_of(samples.dressed(person, performance)), samples.room(person, performance)].add(person)
    assert min(len(people) for people in shown.values()) >= 2
    assert len({room for _, room in shown}) == len({body for body, _ in shown}) == len(shown)


def test_nobody_has_worn_in_training_what_it_wears_when_held_out() -> None:
    samples, held_out = unrendered(), unrendered(split="held_out")
    for person in samples.people:
        known = {body_of(samples.dressed(person, performance)) for performance in samples.performances}
        assert not known & {body_of(samples.dressed(person, performance)) for performance in held_out.performances}


def test_clips_show_the_body_of_the_performance_and_the_head_of_the_person(head_model: Path, cache: Path) -> None:
    samples = source(head_model, cache)
    for person, performance in ((0, 0), (0, 1), (1, 0), (1, 1)):
        clip, look = samples.clip(person, performance), samples.dressed(person, performance).appearance
        seen = linear(np.median(clip.pictures[clip.labels == CLOTH], axis=0))
        told = linear(look.cloth)
        # Light is nearly white, so that colours keep their hue whatever falls on them.
        assert np.allclose(seen / seen.sum(), told / told.sum(), atol=0.08)


def test_a_reference_is_another_frame_of_the_clip_unless_a_share_is_from_others(head_model: Path, cache: Path) -> None:
    def of_clips(samples: PerformerSamples, number: int) -> set[int]:
        reference = samples.sample(number, 2).reference
        return {k for k in samples.trained_on if (samples.clip(number % 2, k).references == reference).all((1, 2, 3)).any()}

    own, others = source(head_model, cache), source(head_model, cache, foreign_references=1.0)
    mixed = source(head_model, cache, foreign_references=0.5)
    differ = 0
    for number in range(12):
        clips = [of_clips(samples, number) for samples in (own, others)]
        assert [len(found) for found in clips] == [1, 1]
        assert not clips[0] & clips[1]  # the target is of the clip that the first one takes its reference from
        differ += of_clips(mixed, number) == clips[1]
    assert 2 < differ < 10
    held_out = source(head_model, cache, "held_out", foreign_references=1.0)
    assert all(of_clips(held_out, number) for number in range(2))


def test_a_swap_is_the_same_performance_room_and_body_with_the_others_head(head_model: Path, cache: Path) -> None:
    samples = source(head_model, cache, "held_out", plain=True)
    own, others = samples.clip(0, 2), samples.clip(0, 2, 1)
    assert np.array_equal(own.crops, others.crops)
    assert not np.array_equal(own.landmarks, others.landmarks)
    background = (own.opacity == 0) & (others.opacity == 0)
    assert background.mean() > 0.1
    apart = np.abs(own.pictures[background].astype(int) - others.pictures[background]).max(-1)
    assert np.quantile(apart, 0.98) == 0  # next to an outline the resampling reaches over it
    cloth = (own.labels == CLOTH) & (others.labels == CLOTH)
    apart = np.abs(own.pictures[cloth].astype(int) - others.pictures[cloth]).max(-1)
    assert cloth.mean() > 0.05
    assert np.median(apart) <= 5  # the other head throws another shadow
    before, after = samples.sample(0, 2), samples.swap(0, 2, 1)
    assert (before.person, after.person) == (samples.name(0), samples.name(1))
    assert before.frame_numbers == after.frame_numbers
    lent = [samples.clip(1, performance).references for performance in samples.trained_on]
    assert any((references == after.reference).all((1, 2, 3)).any() for references in lent)
    assert fingerprint(samples.swap(0, 2, 0)) == fingerprint(before)  # one's own head is no swap


def test_a_person_with_one_performance_lends_its_own_reference(head_model: Path, tmp_path: Path) -> None:
    samples = PerformerSamples(
        head_model, tmp_path, people=1, size=SIZE, performances=1, held_out=0, frames=4, foreign_references=1.0
    )
    assert (samples.clip(0, 0).references == samples.sample(0, 1).reference).all((1, 2, 3)).any()


def test_another_process_with_an_empty_cache_makes_the_same_samples(head_model: Path, cache: Path, tmp_path: Path) -> None:
    here = [fingerprint(source(head_model, cache).sample(number, 2)) for number in (0, 2)]
    code = (
        "from pathlib import Path; import sys; from tests.stages.training.test_shards import fingerprint; "
        "from tests.stages.training.test_performer_data import source; "
        "samples = source(Path(sys.argv[1]), Path(sys.argv[2])); print(*(fingerprint(samples.sample(n, 2)) for n in (2, 0)))"
    )
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code, str(head_model), str(tmp_path)]
    there = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert there.stdout.split() == here[::-1]


def test_all_clips_can_be_rendered_beforehand_by_several_processes(head_model: Path, cache: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    source(head_model, tmp_path, "held_out").prepare(lambda done, of: told.append((done, of)), workers=2)
    assert told == [(1, 2), (2, 2)]
    rendered = {path.name for path in tmp_path.iterdir()}
    source(head_model, cache, "held_out").prepare()
    assert len(rendered) == 2
    assert rendered <= {path.name for path in cache.iterdir()}
    for name in rendered:
        assert (tmp_path / name / "pictures.npy").read_bytes() == (cache / name / "pictures.npy").read_bytes()


def test_the_shipped_long_hair_is_what_its_recipe_gives(head_model: Path) -> None:
    assert np.array_equal(render_masks(head_model, range(2, 3)), long_hair()[2:3])


def test_arguments_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"size": 100},
        {"people": 0},
        {"held_out": 6},
        {"frames": 1},
        {"split": "held_out", "held_out": 0},
        {"foreign_references": 1.5},
    ):
        with pytest.raises(ValueError, match=r"."):
            PerformerSamples(tmp_path / "no.npz", tmp_path, **{"people": 1, "size": 64, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window of 60"):
        PerformerSamples(tmp_path / "no.npz", tmp_path, people=1, size=64).sample(0, 60)


def test_a_cached_clip_reads_back_and_the_first_writer_wins(tmp_path: Path) -> None:
    def clip(value: int) -> Clip:
        pictures = np.full((2, 8, 8, 3), value, np.uint8)
        points = np.zeros((2, 478, 3), np.float32)
        shoulders = np.zeros((2, 2, 3), np.float32)
        crops = np.tile(np.array([6.0, 6.0, 8.0]), (2, 1))
        return Clip(pictures, pictures[..., 0], pictures[..., 0], pictures[0], crops, points, shoulders, pictures, np.arange(2))

    clip(7).save(tmp_path / "key")
    clip(9).save(tmp_path / "key")
    assert (Clip.load(tmp_path / "key").pictures == 7).all()
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    window = Clip.load(tmp_path / "key").window(1, 1, "somebody")
    assert window.frame_numbers == (1,)
    assert window.backgrounds.shape == (1, 8, 8, 3)


def test_what_killed_processes_left_of_clips_goes_and_what_others_write_stays(
    head_model: Path, cache: Path, tmp_path: Path
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, key = platform.node(), "0123456789abcdef01234567"
    dead = [f"{key}.{ended.pid}-0011aabb", f"{key}.{here}.{ended.pid}-0011aabb"]  # as earlier versions named them, and now
    alive = [f"{key}.{here}.{os.getpid()}-0011aabb", f"{key}.elsewhere.{ended.pid}-0011aabb", key]
    for name in (*dead, *alive):
        (tmp_path / name).mkdir()
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(alive)
    (tmp_path / dead[0]).mkdir()
    source(head_model, cache).clip(0, 0).save(tmp_path / "new")
    assert not (tmp_path / dead[0]).exists()
    assert (tmp_path / "new" / "pictures.npy").is_file()


def test_the_digest_says_whether_samples_are_the_same(head_model: Path, cache: Path, tmp_path: Path) -> None:
    one = source(head_model, cache)
    assert one.digest == source(head_model, tmp_path).digest
    others = [source(head_model, cache, "held_out"), source(head_model, cache, plain=True)]
    others += [source(head_model, cache, foreign_references=0.5), unrendered_with(head_model, seed=4)]
    assert len({one.digest, *(other.digest for other in others)}) == 5


def test_backgrounds_are_the_true_ones_in_all_clips_where_that_is_asked(head_model: Path, cache: Path) -> None:
    usual = source(head_model, cache)
    true = PerformerSamples(head_model, cache, people=2, size=SIZE, seed=3, performances=3, frames=FRAMES, true_backgrounds=True)
    assert np.array_equal(true.clip(0, 0).plate, usual.clip(0, 0).plate)
    filled = (true.clip(0, 1).plate != usual.clip(0, 1).plate).any(-1)
    assert 0.1 < filled.mean() < 0.9
    assert true.digest != usual.digest


def test_other_code_that_composes_samples_has_another_digest_and_another_face_model_other_clips(
    head_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = unrendered_with(head_model, seed=3)
    before, key = samples.digest, samples._key(0, 0)
    monkeypatch.setattr("stages.training.performer_data.COMPOSITION", COMPOSITION + 1)
    assert samples.digest != before
    assert samples._key(0, 0) == key  # clips are what is rendered, whatever is made of them
    monkeypatch.undo()
    monkeypatch.setattr("stages.training.performer_data.builtin_digest", lambda: "another")
    assert samples._key(0, 0) != key  # crops follow the head by the face model
    assert samples.digest != before


def unrendered_with(head_model: Path, seed: int) -> PerformerSamples:
    return PerformerSamples(head_model, Path("none"), people=2, size=SIZE, seed=seed, performances=3, frames=FRAMES)
