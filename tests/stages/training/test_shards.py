"""Shards read back as they were written, from anywhere in them, the same in every process."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.problems import StoreError, UsageError
from stages.training.augmentation import COMPOSITION, FOREIGN_REFERENCES, NO_AUGMENTATION
from stages.training.samples import TrainingSample
from stages.training.shard_format import (
    SEGMENTS,
    SEGMENTS_SCHEMA,
    FrameRecord,
    ShardFormat,
    decode_frame,
    encode_frame,
    segments_of,
    suffix_of,
    write_shard,
)
from stages.training.shards import APART, ShardSamples
from tests.stages.training.painted_windows import SIZE, painted_records

KINDS: tuple[ShardFormat, ...] = ("webdataset", "parquet")


def write_dataset(folder: Path, shards: Sequence[Sequence[FrameRecord]], kind: ShardFormat = "webdataset", **more: Any) -> Path:
    """A data set as ``flows.dataset`` lays it out."""
    folder.mkdir(exist_ok=True)
    names, segments = [], []
    for number, records in enumerate(shards):
        name = f"train-{number:06d}"
        table = write_shard(folder / f"{name}{suffix_of(kind)}", records, kind, **{"pictures": "png", **more})
        pq.write_table(table, folder / f"{name}.index.parquet")
        segments += segments_of(f"{name}{suffix_of(kind)}", table)
        names.append({"name": f"{name}{suffix_of(kind)}"})
    pq.write_table(pa.Table.from_pylist(segments, schema=SEGMENTS_SCHEMA), folder / SEGMENTS)
    manifest = {"format_version": 1, "format": kind, "size": SIZE, "splits": {"train": {"shards": names}}}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def two_people() -> list[list[FrameRecord]]:
    return [
        [*painted_records(20), *painted_records(4, clip="a", segment=1)],
        painted_records(12, clip="b", person="q", number=1),
    ]


def fingerprint(sample: TrainingSample) -> str:
    digest = hashlib.sha256(repr((sample.person, sample.frame_numbers)).encode())
    for name in ("reference", "target", "drawing", "background", "head", "face_points"):
        digest.update(np.ascontiguousarray(getattr(sample, name)).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_read_back_as_they_were_written(tmp_path: Path, kind: ShardFormat, two_people: list[list[FrameRecord]]) -> None:
    samples = ShardSamples(str(write_dataset(tmp_path, two_people, kind)))
    assert samples.people == ("p", "q")
    assert samples.frames == 36
    for rows in (range(3, 4), range(14, 19), range(24)):
        for made, found in zip(
            two_people[0][rows.start : rows.stop], samples.read(f"train-000000{suffix_of(kind)}", rows), strict=True
        ):
            for name in ("key", "clip", "person", "rights", "frame", "segment"):
                assert getattr(made, name) == getattr(found, name)
            for name in ("picture", "background", "labels", "landmarks", "shoulders"):
                assert np.array_equal(getattr(made, name), getattr(found, name), equal_nan=name == "shoulders")
            assert (made.reference is None) == (found.reference is None)
            if made.reference is not None and found.reference is not None:
                assert np.array_equal(made.reference, found.reference)


def test_jpeg_keeps_pictures_to_within_what_nobody_sees(tmp_path: Path) -> None:
    (made,) = records = painted_records(1)
    (found,) = ShardSamples(str(write_dataset(tmp_path, [records], pictures="jpg"))).read("train-000000.tar", range(1))
    assert np.abs(made.picture.astype(int) - found.picture).mean() < 2
    assert np.array_equal(made.labels, found.labels)


def test_a_tar_follows_the_convention_of_webdataset(tmp_path: Path, two_people: list[list[FrameRecord]]) -> None:
    folder = write_dataset(tmp_path, two_people)
    with tarfile.open(folder / "train-000000.tar") as tar:
        members = tar.getmembers()
        facts = json.load(tar.extractfile("00000-000001.json"))  # type: ignore[arg-type]
    keys = [member.name.split(".", 1)[0] for member in members]
    # What belongs together lies together, under names that are equal up to the first dot.
    assert len({key for key, after in zip(keys, [*keys[1:], ""], strict=True) if key != after}) == 20
    assert {member.name.split(".", 1)[1] for member in members} == {
        "picture.png", "background.png", "labels.png", "reference.png", "landmarks.npy", "json",
    }  # fmt: skip
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
    assert facts["rights"] == "Freigabe № 7, „synthetic“"
    assert facts["shoulders"][1] == [None, None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_records_make_the_same_bytes(tmp_path: Path, kind: ShardFormat, two_people: list[list[FrameRecord]]) -> None:
    for name in ("one", "two"):
        write_shard(tmp_path / name, two_people[0], kind)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_sample_is_a_window_of_one_segment_with_a_reference_from_elsewhere(
    tmp_path: Path, two_people: list[list[FrameRecord]]
) -> None:
    samples = ShardSamples(str(write_dataset(tmp_path, two_people)), augmentation=NO_AUGMENTATION)
    heads = {(one.clip, one.frame): one.reference for records in two_people for one in records if one.reference is not None}
    for number in range(20):
        sample = samples.sample(number, 4)
        numbers = sample.frame_numbers
        assert numbers == tuple(range(numbers[0], numbers[0] + 4))
        assert sample.target.shape == (4, SIZE, SIZE, 3)
        clip = "a" if sample.person == "p" else "b"
        (frame,) = {
            frame for (of, frame), head in heads.items() if of == clip and np.array_equal(head, sample.reference)
        }  # frame 0 lies in two segments of clip a with the same picture
        assert frame not in numbers or frame == 0
    assert {samples.sample(number, 4).person for number in range(20)} == {"p", "q"}
    assert {samples.sample(number, 16).person for number in range(10)} == {"p"}


def marked(records: Sequence[FrameRecord], clip: int) -> list[FrameRecord]:
    """With references that tell clip and frame by their first pixel."""
    found = []
    for one in records:
        reference = None if one.reference is None else one.reference.copy()
        if reference is not None:
            reference[0, 0] = (clip, one.frame, 0)
        found.append(replace(one, reference=reference))
    return found


def test_half_of_the_references_are_of_another_clip_of_the_person_where_there_is_one(tmp_path: Path) -> None:
    home, garden = marked(painted_records(24, clip="home"), 1), marked(painted_records(8, clip="garden", number=1), 2)
    alone = marked(painted_records(12, clip="alone", person="q", number=2), 3)
    folder = str(write_dataset(tmp_path, [[*home, *garden], alone]))

    def clips(foreign_references: float | None) -> dict[str, list[int]]:
        """Numbers of the clips that references are of, by person; windows of p are too long for the clip in the garden."""
        found: dict[str, list[int]] = {"p": [], "q": []}
        samples = ShardSamples(folder, foreign_references=foreign_references)
        for number in range(40):
            sample = samples.sample(number, 12)
            found[sample.person].append(int(sample.reference[0, 0, 0]))
        return found

    always, never, usual = (clips(share) for share in (1.0, 0.0, None))
    assert (set(always["p"]), set(always["q"])) == ({2}, {3})
    assert (set(never["p"]), set(never["q"])) == ({1}, {3})
    assert set(usual["p"]) == {1, 2}
    assert np.mean([clip == 2 for clip in usual["p"]]) == pytest.approx(FOREIGN_REFERENCES, abs=0.25)


def test_a_reference_of_the_same_clip_is_some_frames_away_where_the_clip_allows(tmp_path: Path) -> None:
    samples = ShardSamples(str(write_dataset(tmp_path, [marked(painted_records(40), 1)])))
    seen = set()
    for number in range(30):
        sample = samples.sample(number, 2)
        frame = int(sample.reference[0, 0, 1])
        assert min(abs(frame - shown) for shown in sample.frame_numbers) >= APART
        seen.add(frame)
    assert len(seen) > 5  # of ten


def test_the_digest_says_what_is_read_and_how_it_is_composed(
    tmp_path: Path, two_people: list[list[FrameRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_dataset(tmp_path, two_people))
    one = ShardSamples(folder)
    assert one.digest == ShardSamples(folder).digest
    digests = {one.digest, ShardSamples(folder, foreign_references=0.0).digest}
    digests.add(ShardSamples(folder, augmentation=NO_AUGMENTATION).digest)
    monkeypatch.setattr("stages.training.shards.COMPOSITION", COMPOSITION + 1)
    digests.add(ShardSamples(folder).digest)
    monkeypatch.undo()
    manifest = Path(folder) / "dataset.json"
    manifest.write_text(manifest.read_text() + "\n")
    digests.add(ShardSamples(folder).digest)
    assert len(digests) == 5
    with pytest.raises(ValueError, match="between 0 and 1"):
        ShardSamples(folder, foreign_references=1.5)


def test_samples_are_a_function_of_seed_and_number_in_every_process(tmp_path: Path, two_people: list[list[FrameRecord]]) -> None:
    folder = write_dataset(tmp_path, two_people)
    here = [fingerprint(ShardSamples(str(folder), seed=4).sample(number, 3)) for number in (0, 7)]
    code = (
        "from stages.training.shards import ShardSamples; from tests.stages.training.test_shards import fingerprint; import sys; "
        "source = ShardSamples(sys.argv[1], seed=4); print(fingerprint(source.sample(7, 3)), fingerprint(source.sample(0, 3)))"
    )
    root = Path(__file__).resolve().parents[3]
    there = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=root, check=True)
    assert there.stdout.split() == here[::-1]
    assert fingerprint(ShardSamples(str(folder), seed=5).sample(0, 3)) != here[0]


def test_a_copy_for_another_process_gives_the_same_samples(tmp_path: Path, two_people: list[list[FrameRecord]]) -> None:
    samples = ShardSamples(str(write_dataset(tmp_path, two_people)))
    before = fingerprint(samples.sample(3, 2))
    assert fingerprint(pickle.loads(pickle.dumps(samples)).sample(3, 2)) == before


def test_smaller_samples_are_shrunk_with_their_points(tmp_path: Path, two_people: list[list[FrameRecord]]) -> None:
    folder = str(write_dataset(tmp_path, two_people))
    whole, small = (ShardSamples(folder, size=size, augmentation=NO_AUGMENTATION).sample(3, 2) for size in (None, 64))
    assert small.target.shape == (2, 64, 64, 3)
    assert small.face_points == pytest.approx(whole.face_points / 2, abs=1e-3)
    assert small.head.mean() == pytest.approx(whole.head.mean(), abs=0.01)
    with pytest.raises(UsageError, match="256") as larger:
        ShardSamples(folder, size=256)
    assert "--size" in larger.value.remedy


def test_shards_are_read_from_any_place(tmp_path: Path, two_people: list[list[FrameRecord]]) -> None:
    folder = write_dataset(tmp_path, two_people)
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/shards-of-a-test", recursive=True)
    try:
        remote = ShardSamples("memory://shards-of-a-test").sample(1, 2)
    finally:
        memory.rm("/shards-of-a-test", recursive=True)
    assert fingerprint(remote) == fingerprint(ShardSamples(str(folder)).sample(1, 2))


def test_a_frame_says_whether_its_rights_were_given_for_another_clip(two_people: list[list[FrameRecord]]) -> None:
    own = two_people[0][0]
    of_a_target = replace(own, rights_said_of="source")
    assert decode_frame("k", encode_frame(of_a_target)).rights_said_of == "source"
    assert decode_frame("k", encode_frame(own)).rights_said_of == "clip"


def test_what_cannot_be_read_is_said_in_words(tmp_path: Path, two_people: list[list[FrameRecord]]) -> None:
    with pytest.raises(UsageError, match=r"dataset prepare|no finished data set"):
        ShardSamples(str(tmp_path))
    with pytest.raises(UsageError, match="s4"):
        ShardSamples("s4://bucket/data")
    whole = encode_frame(two_people[0][0])
    for name in ("picture", "landmarks", "facts"):
        with pytest.raises(StoreError, match="frame k"):
            decode_frame("k", {**whole, name: b""})
    folder = write_dataset(tmp_path / "set", two_people)
    samples = ShardSamples(str(folder))
    with pytest.raises(UsageError, match="50 consecutive frames") as short:
        samples.sample(0, 50)
    assert "--parameter shortest_segment=50" in short.value.remedy
    assert samples.longest == 20
    with pytest.raises(UsageError, match="validation") as empty:
        ShardSamples(str(folder), "validation")
    assert "--parameter validation=0.2" in empty.value.remedy
    assert "shortest_segment" in empty.value.remedy
    tar = folder / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(StoreError, match="damaged") as cut:
        samples.read("train-000000.tar", range(5, 6))
    assert cut.value.code == "shard_damaged"
    assert f"{folder}/train-000000.json" in cut.value.remedy
    tar.unlink()
    with pytest.raises(StoreError, match="missing"):
        samples.read("train-000000.tar", range(1))
    (folder / "dataset.json").write_text('{"format_version": 99}')
    with pytest.raises(UsageError, match="version 99"):
        ShardSamples(str(folder))
    (folder / "dataset.json").write_text("[")
    with pytest.raises(StoreError, match="no description"):
        ShardSamples(str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_shard_is_named_with_the_description_to_delete(
    tmp_path: Path, kind: ShardFormat, two_people: list[list[FrameRecord]]
) -> None:
    folder = write_dataset(tmp_path, two_people, kind)
    samples = ShardSamples(str(folder))
    shard = folder / f"train-000001{suffix_of(kind)}"
    picture = encode_frame(two_people[1][3], "png")["picture"]
    whole = shard.read_bytes()
    assert whole.count(picture) == 1
    shard.write_bytes(whole.replace(picture, bytes(len(picture))))
    with pytest.raises(StoreError, match=f"{shard}, frame 00001-000003") as caught:
        samples.read(shard.name, range(3, 4))
    assert f"Delete {folder}/train-000001.json and" in caught.value.remedy
    (folder / "train-000000.index.parquet").write_bytes(b"none")
    with pytest.raises(StoreError, match=r"train-000000\.index\.parquet") as caught:
        samples.read(f"train-000000{suffix_of(kind)}", range(1))
    assert f"Delete {folder}/train-000000.json and" in caught.value.remedy
    (folder / SEGMENTS).write_bytes(b"none")
    with pytest.raises(StoreError, match=SEGMENTS) as caught:
        ShardSamples(str(folder))
    assert f"Delete {folder}/dataset.json and" in caught.value.remedy
