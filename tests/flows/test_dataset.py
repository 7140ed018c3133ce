"""`headswap dataset prepare`: from clips to shards that can be trained on, stopped and gone on with, rights and all."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli import app
from flows import dataset
from flows.dataset import Place, prepare_dataset, print_dataset
from flows.dataset_frames import Piece, _reference
from flows.dataset_plan import PreparedClip, excluded_runs, plan_shards, without_frames
from schemas.configuration import Settings, load_settings
from schemas.dataset import DECIDED_BY, DatasetClip, DatasetParameters, dataset_parameters, read_clips, split_of
from schemas.problems import HeadswapError, MediaError, UsageError
from stages.networks.registry import ModelRegistry
from stages.training.selection import REASONS
from stages.training.shards import ShardSamples
from stages.video.decode import open_clip
from storage.store import ArtifactStore
from tests.media import write_video
from tests.nights import object_store
from tests.stages.painting import paint_person, textured
from tests.stages.video.retiming import retimed

FRAMES = 14
PARAMETERS = DatasetParameters(
    size=128, shard_frames=6, longest_segment=6, shortest_segment=4, reference_interval=3, validation=0
)


class Studio:
    """Two short videos of an example, of which one goes dark, and a store in which their stages stay."""

    def __init__(self, folder: Path, examples: Path) -> None:
        self.folder = folder
        with open_clip(examples / "clip_smile.mp4") as clip:
            pictures = [picture.copy() for _, picture in clip.iterate(range(FRAMES))]
        dark = [np.full_like(pictures[0], 20)] * 3
        write_video(folder / "one.mp4", pictures)
        write_video(folder / "two.mp4", [*pictures[::-1][:8], *dark])
        rows = ["id,clip,rights,person", "one,one.mp4,own likeness,ada", "two,two.mp4,release 12,", "gone,gone.mp4,synthetic,"]
        (folder / "clips.csv").write_text("\n".join(rows))
        self.clips = read_clips(folder / "clips.csv")
        self.store = ArtifactStore.open(folder / "store")
        self.settings: Settings = load_settings({"store": self.store.url, "workers": 1, "retry.backoff_seconds": 0})

    def prepare(self, name: str, **more: Any) -> dict[str, Any]:
        out = more.pop("out", Place(str(self.folder / name)))
        arguments = {"parameters": PARAMETERS, "registry": ModelRegistry(self.folder / "models"), **more}
        clips = arguments.pop("clips", self.clips)
        return prepare_dataset(clips, self.store, self.settings, out, **arguments)

    def files(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.folder / name).iterdir())}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"), examples)


@pytest.fixture(scope="module")
def told(studio: Studio) -> dict[str, Any]:
    return studio.prepare("whole")


def test_clips_become_shards_that_can_be_trained_on(studio: Studio, told: dict[str, Any]) -> None:
    train = told["splits"]["train"]
    assert train["clips"] == train["people"] == 2
    assert train["frames"] == sum(clip.get("used", 0) for clip in told["clips"]) > FRAMES
    samples = ShardSamples(str(studio.folder / "whole"))
    assert samples.people == ("ada", "two")
    one = samples.sample(5, 4)
    assert one.target.shape == (4, 128, 128, 3)
    assert one.head.any()
    assert one.drawing.any()
    assert one.reference[0, 0].tolist() == [255, 255, 255]


def test_references_are_cut_out_of_the_whole_crop_as_at_work_and_then_shrunk(studio: Studio) -> None:
    few = {**PARAMETERS.model_dump(), "pictures": "png", "reference_interval": 240}
    found = []
    for name, size in (("large", 512), ("small", 128)):
        told = studio.prepare(name, parameters=DatasetParameters.model_validate({**few, "size": size}))
        samples = ShardSamples(str(studio.folder / name))
        (record,) = samples.read(told["splits"]["train"]["shards"][0]["name"], range(1))
        assert record.reference is not None
        found.append(record.reference)
    assert np.array_equal(cv2.resize(found[0], (128, 128), interpolation=cv2.INTER_AREA), found[1])


def test_a_head_that_the_picture_s_border_cuts_off_is_rounded_as_a_source_s_is() -> None:
    picture, labels, landmarks = paint_person(textured(256, 256, seed=3), (128.0, 150.0), 150.0)
    labels[:60], picture[:60] = 0, picture[60]  # the picture begins here, and is continued as crops are
    # Half as large in the video, whose border is at row 60 of the crop, 30 of the reference; and one far from it.
    crops = np.array([[64.0, 34.0, 128.0], [64.0, 128.0, 128.0]])
    cut, inside = (_reference(picture, labels, landmarks.astype(np.float64), crop, 128) for crop in crops)
    above = np.stack([(shown[:29] < 128).any(-1) for shown in (cut, inside)])
    assert above[0].sum() > 40
    assert not above[1].any()
    assert not above[0][:22].any()  # a flat dome


def test_what_was_left_out_is_told_with_its_reason(told: dict[str, Any]) -> None:
    of = {clip["id"]: clip for clip in told["clips"]}
    assert of["one"]["frames"] == FRAMES
    two = of["two"]
    assert two["frames"] == two["used"] + sum(found["frames"] for found in two["excluded"].values()) == 11
    assert two["excluded"]["no_face"]["runs"][-1][1] == 11
    assert of["gone"]["failure"]["code"] == "file_missing"
    shown = io.StringIO()
    print_dataset(told, "OUT", Console(file=shown, width=200))
    assert "no face was found" in shown.getvalue()
    assert "gone.mp4" in shown.getvalue()
    assert "no usable frames" not in shown.getvalue()  # the others have some, and why gone has none is told


def test_what_was_left_out_says_of_how_many_clips_by_which_parameter_and_which_have_nothing_usable() -> None:
    def clip(name: str, used: int, **excluded: int) -> dict[str, Any]:
        runs = {code: {"frames": frames, "runs": [[0, frames]]} for code, frames in excluded.items()}
        return {"id": name, "rights_said_of": "clip", "used": used, "excluded": runs}

    clips = [clip("a", 9, outside=20), clip("b", 0, outside=40, no_face=1), clip("c", 0, no_face=3), clip("d", 9)]
    told = {"splits": {}, "clips": clips, "parameters": DatasetParameters().model_dump(mode="json"), "written": 0}
    shown = io.StringIO()
    print_dataset(told, "OUT", Console(file=shown, width=200))
    assert shown.getvalue().splitlines() == [
        "left out: 60 frames of 2 clips, too much of the crop lies outside the picture (parameter largest_outside=0.45)",
        "left out: 4 frames of 2 clips, no face was found",
        "no usable frames in 2 of 4 clips: b, c",
        "OUT: 0 shards written now",
    ]


def test_every_parameter_that_is_named_for_a_reason_can_be_given() -> None:
    assert set(DECIDED_BY) < set(REASONS)
    assert set(DECIDED_BY.values()) < set(DatasetParameters.model_fields)


def test_a_split_without_frames_is_told_to_a_program_with_the_share_that_the_command_names(studio: Studio) -> None:
    notes: list[str] = []
    studio.prepare("one split", note=notes.append)
    (share,) = {found for note in notes for found in re.findall(r"--parameter validation=[\d.]+\d", note)}
    with pytest.raises(UsageError, match="split 'validation'") as refused:
        ShardSamples(str(studio.folder / "one split"), "validation")
    assert share in refused.value.remedy
    parameters = PARAMETERS.model_copy(update={"validation": float(share.rpartition("=")[2])})
    studio.prepare("two splits", parameters=parameters)
    assert ShardSamples(str(studio.folder / "two splits"), "validation").frames > 0
    studio.prepare("one person", clips=[one for one in studio.clips if one.id != "two"])
    with pytest.raises(UsageError, match="split 'validation'") as refused:
        ShardSamples(str(studio.folder / "one person"), "validation")
    assert "two people at least, and of 2 only 1 has usable frames (none in gone)" in refused.value.remedy


def test_every_shard_carries_the_rights_of_its_clips(studio: Studio, told: dict[str, Any]) -> None:
    rights = {}
    for name, data in studio.files("whole").items():
        if name.endswith(".json") and name != "dataset.json":
            for clip in json.loads(data)["clips"]:
                rights[clip["id"]] = clip["rights"]
    assert rights == {"one": "own likeness", "two": "release 12"}
    samples = ShardSamples(str(studio.folder / "whole"))
    assert {samples.read(shard["name"], range(1))[0].rights for shard in told["splits"]["train"]["shards"]} == {
        "own likeness",
        "release 12",
    }


def test_nothing_is_written_twice(studio: Studio, told: dict[str, Any]) -> None:
    before = studio.files("whole")
    notes: list[str] = []
    again = studio.prepare("whole", note=notes.append)
    assert any("The split 'validation' has no frames" in note for note in notes)  # validation=0
    assert (told["written"], again["written"]) == (len(told["splits"]["train"]["shards"]), 0)
    assert studio.files("whole") == before


def test_stopped_and_started_again_gives_the_same_bytes(
    studio: Studio, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del told
    whole, write_one = studio.files("whole"), dataset.write_one
    written: list[str] = []

    def stopped_at_the_second(shard: Any, job: Any) -> None:
        if written:
            # The power goes while the second shard is on its way: half a file, no description.
            (studio.folder / "stopped" / f"{shard.name}.tar").write_bytes(whole[f"{shard.name}.tar"][:1000])
            raise KeyboardInterrupt
        written.append(shard.name)
        write_one(shard, job)

    monkeypatch.setattr(dataset, "write_one", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        studio.prepare("stopped")
    assert "dataset.json" not in studio.files("stopped")
    monkeypatch.undo()
    assert studio.prepare("stopped")["written"] == len(whole) // 3 - 1
    assert studio.files("stopped") == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_a_clip_that_cannot_be_read_any_more_fails_alone(
    studio: Studio, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(studio, "settings", studio.settings.model_copy(update={"workers": workers}))
    plan_shards, medium = dataset.plan_shards, studio.folder / "one.mp4"
    kept = medium.read_bytes()

    def gone_since(*given: Any) -> Any:
        medium.unlink(missing_ok=True)
        return plan_shards(*given)

    monkeypatch.setattr(dataset, "plan_shards", gone_since)
    try:
        found = studio.prepare(f"without-{workers}")
    finally:
        medium.write_bytes(kept)
    of = {clip["id"]: clip for clip in found["clips"]}
    assert of["one"]["failure"]["code"] == "file_missing"
    assert of["two"] == {clip["id"]: clip for clip in told["clips"]}["two"]
    assert found["splits"]["train"]["frames"] == of["two"]["used"]
    assert found["written"] == len(found["splits"]["train"]["shards"])
    samples = ShardSamples(str(studio.folder / f"without-{workers}"))
    assert samples.people == ("two",)


def test_a_clip_with_something_wrong_that_only_shards_find_is_left_alone_until_it_is_asked_for(
    studio: Studio, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    piece_frames, read = dataset.piece_frames, []

    def found_late(piece: Any, *given: Any) -> Any:
        read.append(piece.clip.id)
        if piece.clip.id == "one":
            raise MediaError("bad_timestamps", "Its time stamps repeat.", "Mend it.")
        yield from piece_frames(piece, *given)

    monkeypatch.setattr(dataset, "piece_frames", found_late)
    first = studio.prepare("late")
    assert {clip["id"]: clip.get("failure", {}).get("code") for clip in first["clips"]}["one"] == "bad_timestamps"
    assert first["written"] == 1
    files, tries = studio.files("late"), len(read)
    again = studio.prepare("late")
    assert again["written"] == 0
    assert again["clips"] == first["clips"]
    assert studio.files("late") == files
    assert len(read) == tries
    monkeypatch.undo()
    assert studio.prepare("late", retry_failed=True)["clips"] == told["clips"]
    assert studio.files("late") == studio.files("whole")


@pytest.mark.parametrize("repeated", [True, False])
def test_another_clip_in_place_of_the_planned_one_gets_into_no_shard_and_is_not_held_against_it(
    studio: Studio, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, examples: Path, repeated: bool
) -> None:
    plan_shards, medium = dataset.plan_shards, studio.folder / "one.mp4"
    kept, name = medium.read_bytes(), f"swapped-{repeated}"
    with open_clip(medium) as clip:
        pictures = [picture.copy() for _, picture in clip.iterate()]
    other = write_video(studio.folder / "other.mp4", pictures[::-1])
    if repeated:
        other = retimed(other, studio.folder / "repeated.mp4", [0] * len(pictures))

    def swapped(*given: Any) -> Any:
        medium.write_bytes(other.read_bytes())
        return plan_shards(*given)

    monkeypatch.setattr(dataset, "plan_shards", swapped)
    try:
        found = studio.prepare(name)
    finally:
        medium.write_bytes(kept)
    assert {clip["id"]: clip.get("failure", {}).get("code") for clip in found["clips"]}["one"] == "file_changed"
    monkeypatch.undo()
    assert studio.prepare(name)["clips"] == told["clips"]
    assert studio.files(name) == studio.files("whole")


def test_several_processes_write_the_same_bytes(studio: Studio, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    del told
    monkeypatch.setattr(studio, "settings", studio.settings.model_copy(update={"workers": 2}))
    assert studio.prepare("many")["written"] > 1
    assert studio.files("many") == studio.files("whole")


def test_a_damaged_or_foreign_shard_is_written_anew(studio: Studio, told: dict[str, Any]) -> None:
    del told
    whole = studio.files("whole")
    folder = studio.folder / "whole"
    (folder / "train-000001.tar").write_bytes(b"cut")
    (folder / "train-000009.tar").write_bytes(b"of an older catalogue")
    (folder / "notes.txt").write_text("mine")
    assert studio.prepare("whole")["written"] == 1
    assert studio.files("whole") == {**whole, "notes.txt": b"mine"}
    (folder / "notes.txt").unlink()


def test_somebody_else_s_shards_are_left_alone(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = studio.folder / "theirs"
    folder.mkdir()
    (folder / "train-000000.tar").write_bytes(b"precious")
    monkeypatch.setattr(dataset, "ClipRun", None)  # told before any work
    with pytest.raises(UsageError, match=r"train-000000\.tar"):
        studio.prepare("theirs")
    assert studio.files("theirs") == {"train-000000.tar": b"precious"}


def test_a_place_that_does_not_serve_is_told_before_any_work(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "ClipRun", None)
    (studio.folder / "a_file").write_text("")
    with pytest.raises(HeadswapError, match="a_file") as refused:
        studio.prepare("a_file")
    assert refused.value.code == "dataset_unwritable"
    with pytest.raises(UsageError, match="s4"):
        studio.prepare("", out=Place("s4://bucket/data"))


def test_two_runs_of_different_parameters_do_not_pass_for_one_data_set(
    studio: Studio, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del told
    write_one = dataset.write_one

    def another_run_is_faster(shard: Any, job: Any) -> None:
        write_one(shard, job)
        description = studio.folder / "shared" / f"{shard.name}.json"
        description.write_text(json.dumps({**json.loads(description.read_text()), "recipe": "of other parameters"}))

    monkeypatch.setattr(dataset, "write_one", another_run_is_faster)
    with pytest.raises(HeadswapError, match="another run") as refused:
        studio.prepare("shared")
    assert refused.value.code == "dataset_changed"
    assert "dataset.json" not in studio.files("shared")


def test_frames_of_a_swap_s_target_say_that_their_rights_were_given_for_the_source(studio: Studio) -> None:
    given = {"one": "clip", "two": "source", "gone": "clip"}
    clips = [clip.model_copy(update={"rights_said_of": given[clip.id]}) for clip in studio.clips]
    shards = studio.prepare("swaps", clips=clips)["splits"]["train"]["shards"]
    samples = ShardSamples(str(studio.folder / "swaps"))
    first = [samples.read(shard["name"], range(1))[0] for shard in shards]
    assert {record.clip: record.rights_said_of for record in first} == {"one": "clip", "two": "source"}
    assert samples.rights == ("own likeness", "release 12 (said of the source of a swap; this clip is its target)")


def test_parquet_holds_the_same_frames(studio: Studio, told: dict[str, Any]) -> None:
    parquet = studio.prepare("parquet", kind="parquet")
    assert parquet["splits"]["train"]["frames"] == told["splits"]["train"]["frames"]
    tar, rows = (ShardSamples(str(studio.folder / name)) for name in ("whole", "parquet"))
    for name in ("target", "background", "reference", "face_points"):
        assert np.array_equal(getattr(tar.sample(2, 3), name), getattr(rows.sample(2, 3), name))


def test_an_object_store_holds_the_same_bytes_and_can_be_trained_from(studio: Studio, told: dict[str, Any]) -> None:
    whole = studio.files("whole")
    with object_store() as server:
        options = {"endpoint_url": server.environment["AWS_ENDPOINT_URL"], "key": "test", "secret": "test"}
        place = Place(f"s3://{server.bucket}/sets/one", options)
        for written in (told["written"], 0):
            assert studio.prepare("", out=place)["written"] == written
        listed = server.client().list_objects_v2(Bucket=server.bucket)["Contents"]
        stored = {
            entry["Key"].removeprefix("sets/one/"): server.client()
            .get_object(Bucket=server.bucket, Key=entry["Key"])["Body"]
            .read()
            for entry in listed
        }
        assert stored == whole
        sample = ShardSamples(place.url, storage_options=options).sample(3, 4)
    assert np.array_equal(sample.target, ShardSamples(str(studio.folder / "whole")).sample(3, 4).target)


def test_a_data_set_without_a_usable_frame_is_refused_with_the_reasons(studio: Studio, told: dict[str, Any]) -> None:
    del told
    with pytest.raises(HeadswapError, match=r"of 2 clips, .* too short \(parameter shortest_segment=200\)") as refused:
        studio.prepare("none", parameters=PARAMETERS.model_copy(update={"shortest_segment": 200}))
    assert refused.value.code == "no_usable_frames"


def test_the_document_s_example_does_what_it_says(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "dataset.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^headswap (dataset prepare .*)$", text, re.MULTILINE)
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    places = {"clips.csv": str(studio.folder / "clips.csv"), "STORE": studio.store.url, "DATASET": str(tmp_path / "set")}
    monkeypatch.setenv("HEADSWAP_MODELS", str(studio.folder / "models"))
    arguments = [places.get(part, part) for part in line.split()]
    more = ["--workers", "1", "--parameter", "shortest_segment=4", "--parameter", "validation=0"]
    ended = CliRunner().invoke(app, [*arguments, *more, "--json"])
    assert ended.exit_code == 1  # one of the clips is missing, and named
    assert json.loads(ended.stdout)["splits"]["train"]["frames"] > FRAMES
    exec(compile(program.replace('"DATASET"', repr(places["DATASET"])), "dataset.md", "exec"), {})
    assert "(4, 256, 256, 3)" in capsys.readouterr().out


# ---- plans


def _prepared(number: int, frames: int, split: str = "train", **more: Any) -> PreparedClip:
    clip = DatasetClip(id=f"clip{number}", clip="/nowhere.mp4", rights="synthetic", **more)
    return PreparedClip(clip, number, split, media="m", pieces=(Piece(clip, number, 0, range(frames)),))


def test_a_shard_is_closed_when_it_is_full_and_splits_are_kept_apart() -> None:
    clips = [_prepared(0, 5), _prepared(1, 3), _prepared(2, 9, "validation"), _prepared(3, 4)]
    shards = plan_shards(clips, "webdataset", DatasetParameters(shard_frames=8))
    assert [(shard.name, shard.frames) for shard in shards] == [
        ("train-000000", 8), ("train-000001", 4), ("validation-000000", 9),
    ]  # fmt: skip


def test_a_shard_is_another_when_anything_that_decides_it_is() -> None:
    parameters = DatasetParameters()
    recipes = [
        plan_shards([clip], kind, values)[0].recipe  # type: ignore[arg-type]
        for clip, kind, values in (
            (_prepared(0, 5), "webdataset", parameters),
            (_prepared(0, 6), "webdataset", parameters),
            (_prepared(0, 5), "parquet", parameters),
            (_prepared(0, 5, person="ada"), "webdataset", parameters),
            (_prepared(0, 5, rights_said_of="source"), "webdataset", parameters),
            (_prepared(0, 5), "webdataset", DatasetParameters(size=256)),
            (_prepared(0, 5), "webdataset", DatasetParameters(quality=90)),
        )
    ]
    assert len(set(recipes)) == len(recipes)
    same = plan_shards([_prepared(0, 5)], "webdataset", DatasetParameters(validation=0.5, shard_frames=99))
    assert same[0].recipe == recipes[0]


def test_frames_left_out_are_told_as_runs() -> None:
    codes = np.array(["cut", "cut", "", "short", "", "cut"])
    assert excluded_runs(codes) == {"cut": [[0, 2], [5, 6]], "short": [[3, 4]]}
    assert excluded_runs(codes[:0]) == {}


def test_the_split_follows_the_person_alone() -> None:
    splits = [split_of(f"person {k}", 0.2) for k in range(1000)]
    assert splits == [split_of(f"person {k}", 0.2) for k in range(1000)]
    assert splits.count("validation") == pytest.approx(200, abs=50)
    assert {split_of(f"person {k}", 0) for k in range(100)} == {"train"}
    # Who is kept for validation stays so when more are.
    assert all(split_of(f"person {k}", 0.4) == "validation" for k in range(1000) if splits[k] == "validation")


def test_a_split_without_frames_is_told_with_a_share_that_gives_both_some() -> None:
    def split(people: int, share: float) -> list[PreparedClip]:
        names = [f"person {k}" for k in range(people)]
        return [_prepared(k, 5, split_of(name, share), person=name) for k, name in enumerate(names)]

    assert without_frames(split(50, 0.2)) == []
    for people, share in ((3, 0.0), (3, 0.999999), (40, 0.0)):
        (remark,) = without_frames(split(people, share))
        (better,) = re.findall(r"--parameter validation=(\S+)\.$", remark)
        assert without_frames(split(people, float(better))) == []
    (alone,) = without_frames(split(1, 0.0))
    assert alone.endswith("it takes two people at least, and there is 1.")


def test_people_without_usable_frames_are_counted_and_their_clips_named() -> None:
    clips = [_prepared(k, 5, person="ada" if k < 2 else f"person {k}") for k in range(4)]
    for one in clips[1:]:
        one.pieces = ()
    (remark,) = without_frames(clips)
    assert "The split 'validation' has no frames" in remark
    assert remark.endswith("it takes two people at least, and of 3 only 1 has usable frames (none in clip2, clip3).")
    many = [_prepared(k, 5) for k in range(30)]
    for one in many[1:]:
        one.pieces = ()
    assert "clip9, clip10 and 19 more)" in without_frames(many)[0]


# ---- catalogues


def test_catalogues_of_clips_are_read_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,clip,rights,subject\na,x.mp4,synthetic,1\nb,s3://bucket/y.mp4, own  likeness ,face.png\n")
    (tmp_path / "a.jsonl").write_text(
        '{"id": "a", "clip": "x.mp4", "rights": "synthetic", "subject": 1}\n'
        '{"id": "b", "clip": "s3://bucket/y.mp4", "rights": "own likeness", "subject": "face.png"}\n'
    )
    clips = read_clips(tmp_path / "a.csv")
    assert clips == read_clips(tmp_path / "a.jsonl")
    assert clips[0].clip == str(tmp_path / "x.mp4")
    assert (clips[0].subject, clips[1].subject) == ("1", str(tmp_path / "face.png"))
    assert clips[1].rights == "own likeness"


def test_every_problem_of_a_catalogue_is_told_at_once(tmp_path: Path) -> None:
    rows = [
        "a,x.mp4,,p",
        "b/c,y.mp4,ok,",
        "a2,,ok,",
        "d,z.mp4,ok,",
        "D,w.mp4,ok,",
        "e,z.mp4,ok,",
        "f,s4://b/v.mp4,ok,",
        "g,\x1b[2J.mp4,ok,",
    ]
    (tmp_path / "bad.csv").write_text("\n".join(["id,clip,rights,persn", *rows]))
    with pytest.raises(UsageError) as refused:
        read_clips(tmp_path / "bad.csv")
    told = "\n".join(refused.value.problems)
    parts = ("'rights': is missing", "'persn'", "person", "cannot name files", "'clip': is missing", "'D' is taken")
    for part in (*parts, "z.mp4 is named by row 4", "s4:// is no known protocol", "control character"):
        assert part in told


def test_what_stands_twice_is_told_even_where_the_first_row_has_another_problem(tmp_path: Path) -> None:
    rows = ["a,x.mp4,", "a,y.mp4,ok", "b,z.mp4,", "c,z.mp4,ok"]
    (tmp_path / "bad.csv").write_text("\n".join(["id,clip,rights", *rows]))
    with pytest.raises(UsageError) as refused:
        read_clips(tmp_path / "bad.csv")
    assert len(refused.value.problems) == 4
    told = "\n".join(refused.value.problems)
    assert "row 2 (line 3), column 'id': 'a' is taken by row 1 (line 2); give every clip its own id." in told
    assert f"row 4 (line 5), column 'clip': {tmp_path}/z.mp4 is named by row 3 (line 4) already" in told


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("deep.jsonl", "[" * 100_000, "not a JSON object"),
        ("other.csv", "id;clip;rights\na;x.mp4;ok", "not separated by commas"),
        ("video.csv", "id,video,rights\na,x.mp4,ok", "column 'clip' is missing"),
        ("none.csv", "id,clip,rights\n", "has no rows"),
        ("clips.txt", "id,clip,rights\n", "must end in"),
    ],
)
def test_a_file_that_is_no_catalogue_of_clips_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=told):
        read_clips(tmp_path / name)


def test_long_ids_of_swaps_stay_different(tmp_path: Path) -> None:
    names = ["n" * 120 + end for end in "ab"]
    rows = [f"{name},{name}.png,{name}.mp4,release 1" for name in names]
    (tmp_path / "swaps.csv").write_text("\n".join(["id,source,target,rights", *rows]))
    assert len({clip.id for clip in read_clips(tmp_path / "swaps.csv")}) == 4


def test_a_catalogue_of_swaps_gives_sources_and_targets_once_each_and_says_whose_the_rights_are(tmp_path: Path) -> None:
    rows = ["a,s.png,t.mp4,release 1,", "b,s.png,u.mp4,release 1,0", "c,u.mp4,s.png,release 1,largest"]
    (tmp_path / "swaps.csv").write_text("\n".join(["id,source,target,rights,subject", *rows]))
    clips = read_clips(tmp_path / "swaps.csv")
    assert [(clip.id, Path(clip.clip).name, clip.rights_said_of) for clip in clips] == [
        ("a-source", "s.png", "clip"), ("a-target", "t.mp4", "source"), ("b-target", "u.mp4", "source"),
    ]  # fmt: skip


def test_wrong_parameters_are_told_at_once() -> None:
    assert dataset_parameters(["validation=0.25", "pictures=png"], size=256).validation == 0.25
    with pytest.raises(UsageError, match="validation"):
        dataset_parameters(["validaton=0.1"])
    with pytest.raises(UsageError) as refused:
        dataset_parameters(["validation=2", "quality=9", "quantity=9"], size=100)
    assert len(refused.value.problems) == 4
