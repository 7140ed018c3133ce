"""What jobs need of the diffusion renderer's pipeline, and what it wants of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.planning import Node, Planner
from flows.requirements import require_pipelines
from flows.retrying import settings_of_record
from schemas.configuration import Settings, load_settings
from schemas.parameters import DiffusionParameters, RenderParameters
from schemas.problems import UsageError
from stages.networks.registry import ModelRegistry
from storage.store import ArtifactStore
from tests.flows.conftest import job
from tests.pipelines import register_random

WANTED = {"steps": 12, "guidance_scale": 1.5, "window": 8, "overlap": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registered") / "models"
    register_random(folder, "headswap-demo", sampling=WANTED)
    register_random(folder, "headswap-full")
    return folder


def planner(folder: Path, models: Path, settings: Settings) -> Planner:
    jobs = [job("one", folder / "a.png", folder / "b.mp4")]
    return Planner(jobs, ArtifactStore.open(folder / "store"), settings, ModelRegistry(models))


def sampler(folder: Path, models: Path, settings: Settings) -> DiffusionParameters:
    parameters = planner(folder, models, settings).parameters(Node("one", "render"))
    assert isinstance(parameters, RenderParameters)
    return parameters.diffusion


def test_a_pipeline_is_sampled_as_it_wants_where_nobody_says_otherwise(tmp_path: Path, models: Path) -> None:
    asked = {"renderer": "diffusion", "profile": "demo", "device": "cpu"}
    found = sampler(tmp_path, models, load_settings(asked))
    assert found == DiffusionParameters(
        model="headswap-demo", steps=12, guidance_scale=1.5, window=8, overlap=2, precision="float32"
    )
    found = sampler(tmp_path, models, load_settings({**asked, "stages.render.diffusion.steps": 25}))
    assert (found.steps, found.guidance_scale, found.window) == (25, 1.5, 8)


def test_a_pipeline_that_says_nothing_and_the_warp_are_left_with_the_defaults(tmp_path: Path, models: Path) -> None:
    full = DiffusionParameters(model="headswap-full", precision="float32")
    assert sampler(tmp_path, models, load_settings({"renderer": "diffusion", "device": "cpu"})) == full
    assert sampler(tmp_path, models, load_settings({"renderer": "warp", "profile": "demo"})) == DiffusionParameters()


def test_what_does_not_go_with_what_the_pipeline_wants_is_told_before_anything_runs(tmp_path: Path, models: Path) -> None:
    settings = load_settings({"renderer": "diffusion", "profile": "demo", "stages.render.diffusion.overlap": 10})
    with pytest.raises(UsageError, match="overlap 10 must be less than window 8") as caught:
        sampler(tmp_path, models, settings)
    assert "headswap-demo wants guidance_scale 1.5, overlap 2, steps 12, window 8" in caught.value.remedy
    with pytest.raises(UsageError, match="overlap 4 must be less than window 3"):
        sampler(tmp_path, models, load_settings({"renderer": "diffusion", "stages.render.diffusion.window": 3}))


def test_one_of_a_pair_goes_with_what_the_pipeline_wants_of_the_other(tmp_path: Path, models: Path) -> None:
    asked = {"renderer": "diffusion", "profile": "demo", "stages.render.diffusion.window": 3}
    found = sampler(tmp_path, models, load_settings(asked))
    assert (found.window, found.overlap) == (3, 2)
    interval = {"stages.render.diffusion.guidance_from": 0.2, "stages.render.diffusion.guidance_until": 0.7}
    assert sampler(tmp_path, models, load_settings({**asked, **interval})) == found.model_copy(
        update={"guidance_from": 0.2, "guidance_until": 0.7}
    )


def test_a_run_that_is_tried_again_or_reported_is_sampled_as_it_was(tmp_path: Path, models: Path) -> None:
    settings = load_settings({"renderer": "diffusion", "profile": "demo", "stages.render.diffusion.steps": 25, "seed": 3})
    first = planner(tmp_path, models, settings)
    again = settings_of_record(first.store, {"settings": first.settings.recorded()}, {})
    others = tmp_path / "registered" / "models"
    register_random(others, "headswap-demo", sampling={"window": 4, "overlap": 1})
    assert sampler(tmp_path, others, again) == sampler(tmp_path, models, settings)
    assert again.seed == 3


def test_settings_as_they_are_shown_name_the_pipeline_as_the_origin_of_what_it_wants(tmp_path: Path, models: Path) -> None:
    settings = load_settings({"renderer": "diffusion", "profile": "demo", "stages.render.diffusion.steps": 25})
    shown = {setting.name: setting for setting in planner(tmp_path, models, settings).settings.describe()}
    assert (shown["stages.render.diffusion.window"].value, shown["stages.render.diffusion.steps"].value) == ("8", "25")
    assert shown["stages.render.diffusion.window"].origin == "the pipeline headswap-demo"
    assert shown["stages.render.diffusion.steps"].origin == "--set stages.render.diffusion.steps"
    assert settings.origin("stages.render.diffusion.window") == "default"


def test_a_missing_pipeline_is_told_with_the_jobs_that_need_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs the pipeline headswap-full, which is not registered \(jobs: one\)"):
        require_pipelines(planner(tmp_path, tmp_path / "none", load_settings({"renderer": "diffusion"})))
