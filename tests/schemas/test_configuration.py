"""Promises of the configuration: precedence, all problems at once, each with its origin, and documentation that is true."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas import parameters
from schemas.catalogue import Job
from schemas.configuration import Retry, Settings, Stages, leaves, load_settings, parse_assignments, usable_cores
from schemas.problems import UsageError
from schemas.reference import updated
from schemas.written import read_yaml

JOB = Job(id="a", source="s.png", target="t.mp4", rights="synthetic")


def written(folder: Path, text: str) -> Path:
    path = folder / "night.yaml"
    path.write_text(text)
    return path


def problems_of(*arguments: Any) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        load_settings(*arguments)
    return caught.value.problems


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.workers == usable_cores() >= 1
    assert settings.engine == "prefect"
    assert {setting.origin for setting in settings.describe()} == {"default"}


def test_flags_stand_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "seed: 1\nworkers: 1\nengine: direct\nstages:\n  encode:\n    crf: 1\n    preset: slow\n")
    environment = {"HEADSWAP_SEED": "2", "HEADSWAP_WORKERS": "2", "HEADSWAP_STAGES__ENCODE__CRF": "2", "PATH": "/bin"}
    settings = load_settings({"seed": 3, "stages.encode.crf": "3", "store": None}, environment, file)
    assert (settings.seed, settings.workers, settings.engine, settings.store) == (3, 2, "direct", None)
    assert (settings.stages.encode.crf, settings.stages.encode.preset, settings.stages.encode.codec) == (3, "slow", "h264")
    assert settings.origin("seed") == "--seed"
    assert settings.origin("stages.encode.crf") == "--set stages.encode.crf"
    assert settings.origin("workers") == "HEADSWAP_WORKERS"
    assert settings.origin("engine") == f"{file}: engine"
    assert settings.origin("stages.encode.codec") == "default"


def test_the_defaults_of_a_command_stand_over_those_of_all_and_under_everything_else(tmp_path: Path) -> None:
    defaults = {"engine": "direct", "store": "own"}
    settings = load_settings({"engine": None}, {}, defaults=defaults)
    assert (settings.engine, settings.store) == ("direct", "own")
    assert settings.origin("store") == "the command's default"
    file = written(tmp_path, "store: night\nengine: prefect\n")
    assert load_settings({}, {"HEADSWAP_STORE": "shared"}, defaults=defaults).store == "shared"
    settings = load_settings({}, {}, file, defaults=defaults)
    assert (settings.engine, settings.store) == ("prefect", "night")


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    assert load_settings({}, {"HEADSWAP_CONFIG": str(written(tmp_path, "seed: 5\n"))}).seed == 5


def test_an_empty_variable_and_an_empty_file_count_as_not_given(tmp_path: Path) -> None:
    assert load_settings({}, {"HEADSWAP_SEED": ""}, written(tmp_path, "# nothing\n")) == Settings()


def test_every_problem_is_reported_with_its_origin_and_the_nearest_name(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "stages:\n  encode:\n    cfr: 18\n    crf: 99\n  enkode: {}\nengine: prefct\nretry: 3\nlimits: {max_frames: [1]}\n",
    )
    environment = {"HEADSWAP_WORKERS": "many", "HEADSWAP_STAGES__ENCODE__PRESETS": "slow", "HEADSWAP_STORAGE_OPTIONS": "{secret"}
    problems = problems_of({"renderer": "wrap", "stoer": "x"}, environment, file)
    text = "\n".join(problems)
    for expected in (
        f"{file}: stages.encode.cfr: there is no setting 'stages.encode.cfr'; in stages.encode, did you mean 'crf'?",
        f"{file}: stages.encode.crf: 99: input should be less than or equal to 51",
        f"{file}: stages.enkode: there is no setting 'stages.enkode'; in stages, did you mean 'encode'?",
        f"{file}: engine: 'prefct' is not permitted; did you mean 'prefect'?",
        f"{file}: retry: retry is a group of settings",
        f"{file}: limits.max_frames: [1]: input should be a valid integer",
        "HEADSWAP_WORKERS: 'many': input should be a valid integer",
        "HEADSWAP_STAGES__ENCODE__PRESETS: no setting goes by this variable; did you mean 'HEADSWAP_STAGES__ENCODE__PRESET'?",
        "HEADSWAP_STORAGE_OPTIONS: its value: input should be a valid dictionary",
        "--renderer: 'wrap' is not permitted; did you mean 'warp'?",
        "--set stoer: there is no setting 'stoer'; did you mean 'store'?",
    ):
        assert expected in text
    assert len(problems) == 11
    assert "secret" not in text


@pytest.mark.parametrize(
    ("text", "expected"), [("a: [", "not well-formed YAML"), ("- 1", "must hold names and values, but holds list")]
)
def test_a_damaged_file_is_explained(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problems_of({}, {}, written(tmp_path, text))[0]


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"configuration ~nobody-here/c\.yaml does not exist"):
        load_settings({}, {}, Path("~nobody-here/c.yaml"))
    assert "none.yaml does not exist" in problems_of({}, {}, tmp_path / "none.yaml")[0]


def test_values_are_read_as_their_setting_wants_them(tmp_path: Path) -> None:
    file = written(tmp_path, "stages: {track: {subject: 1}}\n")
    environment = {"HEADSWAP_COMMERCIAL": "true", "HEADSWAP_STORAGE_OPTIONS": '{"endpoint_url": "http://x"}'}
    settings = load_settings({"out": tmp_path}, environment, file)
    assert settings.stages.track.subject == "1"
    assert settings.commercial is True
    assert settings.storage_options == {"endpoint_url": "http://x"}
    assert settings.out == str(tmp_path)
    (options,) = [setting for setting in settings.describe() if setting.name == "storage_options"]
    assert options.value == "(set, not shown)"


def test_options_of_places_are_named_by_addresses_with_dots_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text("store: s3://work\nplace_options:\n  s3://old.foot.age: {secret: hush}\n  s3://public: {}\n")
    for settings in (
        load_settings(file=file),
        load_settings({"store": "s3://work", "place_options": '{"s3://old.foot.age": {"secret": "hush"}}'}),
    ):
        assert settings.storage_options_of("s3://old.foot.age/a.mp4") == {"secret": "hush"}
        assert "hush" not in str(settings.describe()) + str(settings.recorded())


def test_assignments_become_flags() -> None:
    flags = parse_assignments(["stages.encode.crf=18", "stages.track.subject=face=1.png"])
    assert load_settings(flags).stages.track.subject == "face=1.png"
    assert problems_of(parse_assignments(["crf"])) == ("--set crf: must be NAME=VALUE, such as stages.encode.crf=18.",)


def test_a_name_that_is_given_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text("workers: 2\nrenderer: warp\nworkers: 3\n")
    (problem,) = problems_of({}, {}, file)
    assert "'workers' is given twice" in problem
    assert "line 3" in problem


def test_merges_may_give_a_name_again() -> None:
    text = """
    base: &base {precision: float32, steps: 10}
    phases:
      - optimisation: &first {<<: *base, steps: 20}
    last: {<<: *first}
    keys: {1: a, '1': b}
    """
    assert read_yaml(text) == yaml.safe_load(text)
    with pytest.raises(yaml.YAMLError, match="'steps' is given twice"):
        read_yaml("last: {steps: 1, more: 2, steps: 3}")


def test_paths_are_recorded_as_they_are_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = load_settings({"out": "results", "models": "~/models", "store": "s3://bucket/x", "scratch": "fast"}).recorded()
    found = [recorded[name] for name in ("out", "models", "store", "scratch")]
    assert found == [str(tmp_path / "results"), "~/models", "s3://bucket/x", str(tmp_path / "fast")]
    assert recorded["provenance"]["certificate"] is None


def test_a_device_of_another_kind_is_refused_with_the_kinds_there_are() -> None:
    (problem,) = problems_of({"device": "mps"})
    assert problem.startswith("--set device: 'mps' is not permitted")
    assert "`cuda:0,cuda:1`" in problem
    assert "^" not in problem


def test_assignments_that_are_none_are_told_with_every_wrong_name_and_value() -> None:
    texts = ["stages.encode.cfr=3", "workers=many", "nope", "stages.masks.hair=green", "workers", "seed"]
    # As the command line does: its own flags beside the assignments.
    problems = problems_of({**parse_assignments(texts), "workers": "few", "seed": 3})
    assert len(problems) == 6
    text = "\n".join(problems)
    for expected in (
        "--set stages.encode.cfr: there is no setting 'stages.encode.cfr'; in stages.encode, did you mean 'crf'?",
        "--workers: 'few': input should be a valid integer",
        "--set nope: must be NAME=VALUE, such as stages.encode.crf=18.",
        "--set stages.masks.hair: 'green' is not permitted",
        "--set workers: must be NAME=VALUE",
        "--set seed: must be NAME=VALUE",
    ):
        assert expected in text


def test_stages_cannot_count_in_different_crops() -> None:
    stages = [name for name in Stages.model_fields if hasattr(Settings().stages.of(name), "crop_size")]
    assert load_settings({f"stages.{name}.crop_size": 256 for name in stages}).stages.masks.crop_size == 256
    if len(stages) > 1:
        (problem,) = problems_of({"stages.masks.crop_size": 256})
        assert problem.startswith("stages: all stages must count in the same crop: stages.masks.crop_size 256, ")


def test_a_job_chooses_subject_renderer_and_seed_over_the_configuration() -> None:
    settings = load_settings({"renderer": "diffusion", "seed": 10, "stages.track.subject": "1"})
    networks = parameters.DiffusionParameters(model="headswap-full")
    assert settings.parameters("render") == parameters.RenderParameters(renderer="diffusion", diffusion=networks)
    assert settings.parameters("render", JOB) == parameters.RenderParameters(renderer="diffusion", diffusion=networks)
    assert settings.parameters("render", JOB.model_copy(update={"renderer": "warp"})) == parameters.RenderParameters(
        renderer="warp"
    )
    assert settings.parameters("track", JOB) == parameters.TrackParameters(subject="1")
    assert settings.parameters("track", JOB.model_copy(update={"subject": "0"})) == parameters.TrackParameters(subject="0")
    assert settings.parameters("ingest", JOB) == parameters.IngestParameters()
    assert settings.seed_of(JOB.model_copy(update={"seed": 2})) == 12


def test_the_profile_names_the_networks_and_what_the_warp_does_not_read_is_not_in_its_key() -> None:
    settings = load_settings({"renderer": "diffusion", "profile": "demo", "stages.render.diffusion.steps": 8})
    assert settings.parameters("render").diffusion == parameters.DiffusionParameters(model="headswap-demo", steps=8)
    named = load_settings({"renderer": "diffusion", "stages.render.diffusion.model": "mine"})
    assert named.parameters("render").diffusion.model == "mine"
    warp = settings.parameters("render", JOB.model_copy(update={"renderer": "warp"}))
    assert warp == parameters.RenderParameters()


def test_windows_overlap_less_than_they_are_long() -> None:
    with pytest.raises(UsageError, match="overlap 16 must be less than window 16"):
        load_settings({"stages.render.diffusion.overlap": 16, "stages.render.diffusion.window": 16})


def test_pauses_grow_to_their_limit() -> None:
    assert Retry(attempts=4, backoff_seconds=2, backoff_factor=3, backoff_limit_seconds=10).pauses() == [2, 6, 10]
    assert Retry(attempts=1).pauses() == []


def test_every_stage_parameter_model_can_be_configured() -> None:
    declared = {
        kind for _, kind in inspect.getmembers(parameters, inspect.isclass) if issubclass(kind, parameters.StageParameters)
    } - {parameters.StageParameters}
    assert declared == {field.annotation for field in Stages.model_fields.values()}


def test_settings_travel_to_other_processes_with_their_origins() -> None:
    settings = load_settings({"seed": 3})
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.origin("seed") == "--seed"


@given(st.data())
def test_what_is_described_can_be_loaded_again_from_variables_and_from_a_file(data: st.DataObject) -> None:
    known = {leaf.name: leaf for leaf in leaves(Settings)}
    names = data.draw(st.lists(st.sampled_from(sorted(known)), unique=True, max_size=8))
    values = {setting.name: setting.value for setting in Settings().describe() if setting.name in names and setting.value != "-"}
    environment = {known[name].variable: value for name, value in values.items()}
    loaded = load_settings({}, environment)
    assert loaded.model_dump() == Settings().model_dump()
    assert {name for name in known if loaded.origin(name) != "default"} == set(values)
    assert load_settings(yaml.safe_load(yaml.safe_dump(values))).model_dump() == Settings().model_dump()


def test_the_documentation_is_what_the_models_say() -> None:
    document = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert document == updated(document), "run `python -m schemas.reference docs/configuration.md`"


def test_what_warp_jobs_are_known_by_does_not_change_with_options_of_the_diffusion_renderer() -> None:
    """A field more, and every finished catalogue would be rendered again."""
    diffusion = {
        "model": None,
        "solver": "ddim",
        "steps": 25,
        "guidance_scale": 3.5,
        "guidance_from": 0.0,
        "guidance_until": 1.0,
        "window": 16,
        "overlap": 4,
        "blend": "step",
        "context": 1,
        "precision": "auto",
    }
    assert parameters.as_in_keys(parameters.RenderParameters()) == {
        "renderer": "warp",
        "match_neck": True,
        "diffusion": diffusion,
    }
    asked = parameters.DiffusionParameters(compile=True)
    assert parameters.as_in_keys(asked) == {**diffusion, "compile": True}
    assert parameters.DiffusionParameters.model_validate(asked.model_dump(mode="json")) == asked
