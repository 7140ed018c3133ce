"""``headswap models add``: files under known names, folders as pipelines, and everything that is wrong told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cli import app
from flows import estimates
from flows.estimates import Costs
from flows.examples import demo_renderer
from flows.models import add, pull, verify
from flows.planning import Node, Planner
from schemas.catalogue import Job
from schemas.configuration import load_settings
from schemas.problems import HeadswapError, ModelError, UsageError
from stages.networks import presets
from stages.networks.presets import TINY
from stages.networks.registry import ModelRegistry
from storage.store import ArtifactStore
from tests.pipelines import register_random


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    presets.build(TINY).save_pretrained(folder)
    return folder


def test_a_folder_is_a_pipeline_and_says_what_is_on_record(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    told = add(registry, "mine", saved, licence="in-house", commercial=True)
    assert (told["name"], told["licence"], told["commercial"]) == ("mine", "in-house", True)
    assert told["path"] == str(tmp_path / "models" / "mine")
    assert len(told["digest"]) == 40
    assert told["notes"]


def test_a_file_goes_under_a_known_name(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    file = tmp_path / "ict.npz"
    np.savez(file, **{name: np.zeros(3) for name in registry.entry("ict").arrays})
    with pytest.raises(ModelError, match="is not the ict on record"):
        add(registry, "ict", file)
    assert add(registry, "ict", file, allow_unknown_digest=True)["path"].endswith("ict_facekit.npz")
    with pytest.raises(ModelError, match="There is no model 'unknown'"):
        add(registry, "unknown", file)
    with pytest.raises(ModelError, match="one npz file"):
        add(registry, "ict", tmp_path)


def test_every_weight_that_does_not_fit_is_told_before_the_error(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    presets.build(TINY).save_pretrained(folder)
    file = folder / "denoising_net" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    gone = [name for name in weights if name.startswith("mid_block.")]
    save_file(
        {**{name: tensor for name, tensor in weights.items() if name not in gone}, "surplus": torch.ones(1)},
        file,
        metadata={"format": "pt"},
    )
    told: list[str] = []
    with pytest.raises(ModelError) as caught:
        add(ModelRegistry(tmp_path / "models"), "broken", folder, licence="x", tell=told.append)
    assert caught.value.code == "weights_do_not_fit"
    assert {line.rsplit(" ", 1)[-1] for line in told} == {*gone, "surplus"}


def test_the_demo_says_which_renderer_it_takes_and_why(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models", shipped=tmp_path / "nothing")
    assert demo_renderer(registry, None)[0] == "warp"
    assert "no trained pipeline headswap-demo" in demo_renderer(registry, None)[1]
    assert demo_renderer(registry, "diffusion") == ("diffusion", "The demo uses the renderer diffusion, as asked for.")
    add(registry, "headswap-demo", saved, licence="in-house")
    renderer, why = demo_renderer(registry, None)
    assert renderer == "warp"
    assert "not trained" in why
    assert "not trained" in demo_renderer(registry, "diffusion")[1]
    assert "not trained" not in demo_renderer(registry, "warp")[1]
    register_random(tmp_path / "models", "headswap-demo")
    registry = ModelRegistry(tmp_path / "models", shipped=tmp_path / "nothing")
    assert demo_renderer(registry, None)[0] == "diffusion"
    (registry.require("headswap-demo") / "model_index.json").unlink()
    renderer, why = demo_renderer(registry, None)
    assert renderer == "warp"
    assert "is gone" in why


def test_of_a_pipeline_that_was_never_trained_jobs_and_provenance_say_so(saved: Path, tmp_path: Path, examples: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    add(registry, "mine", saved, licence="in-house")
    job = Job(id="one", source=str(examples / "portrait_ada.png"), target=str(examples / "clip_smile.mp4"), rights="synthetic")

    def planned(renderer: str) -> Planner:
        settings = load_settings({"renderer": renderer, "stages.render.diffusion.model": "mine", "device": "cpu"})
        with ArtifactStore.open(tmp_path / "store") as store:
            return Planner([job], store, settings, registry)

    planner = planned("diffusion")
    notes = planner.pipeline_notes(planner.jobs["one"])
    assert notes[0] == "The pipeline mine: Its PoseGuider was never trained: landmarks have no effect."
    drawn_by = planner.options(Node("one", "assemble"))["renderer"]
    assert [f"The pipeline mine: {note}" for note in drawn_by["notes"]] == notes
    planner = planned("warp")
    assert planner.pipeline_notes(planner.jobs["one"]) == []
    register_random(tmp_path / "models", "trained")
    planner = Planner([job], planner.store, planner.settings, ModelRegistry(tmp_path / "models"))
    assert "notes" not in str(planner.options(Node("one", "assemble")))
    result = CliRunner().invoke(app, ["models", "list"], env={"HEADSWAP_MODELS": str(tmp_path / "models"), "COLUMNS": "200"})
    assert "mine: Its PoseGuider was never trained" in result.output


def test_a_pipeline_without_a_licence_is_wrong_usage(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="licence"):
        add(ModelRegistry(tmp_path / "models"), "mine", saved)


def test_a_folder_that_is_no_pipeline_is_told_together_with_its_missing_licence(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    registry = ModelRegistry(tmp_path / "models")
    with pytest.raises(UsageError) as refused:
        add(registry, "headswap-full", folder)
    lacking, licence = refused.value.problems
    assert lacking == f"The folder {folder} lacks reference_unet, denoising_unet, pose_guider, vae, image_encoder."
    assert licence == f"The licence of {folder} is not given."
    assert "It must hold reference_unet" in refused.value.remedy
    assert "--licence TEXT" in refused.value.remedy
    with pytest.raises(ModelError, match="lacks reference_unet"):
        add(registry, "headswap-full", folder, licence="x")


def test_a_source_that_is_not_there_is_told_and_not_its_name(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    add(registry, "mine", saved, licence="in-house")
    missing = tmp_path / "nosuchdir"
    with pytest.raises(ModelError, match="no file or folder ~nobody-here/x"):
        add(registry, "headswap-full", Path("~nobody-here/x"), licence="x")
    for name in ("headswap-full", "mine"):
        with pytest.raises(ModelError) as refused:
            add(registry, name, missing, licence="x")
        assert refused.value.code == "model_missing"
        assert refused.value.message == f"There is no file or folder {missing}."
        assert "did you mean" not in refused.value.remedy
    with pytest.raises(ModelError, match=r"no file or folder .*did you mean 'arcface'\?"):
        add(registry, "arcfase", missing)


def test_nobody_is_asked_to_accept_the_licence_of_what_cannot_be_pulled(tmp_path: Path) -> None:
    asked: list[str] = []
    told: list[str] = []
    with pytest.raises(ModelError, match="no address from which ict can be pulled") as refused:
        pull(ModelRegistry(tmp_path), "ict", accepted=False, ask=lambda text: bool(asked.append(text)) or True, tell=told.append)
    assert "pack-ict" in refused.value.remedy
    assert (asked, told) == ([], [])


def test_a_licence_is_shown_before_it_is_asked_for_and_nothing_is_downloaded_without(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(HeadswapError) as refused:
        pull(ModelRegistry(tmp_path), "arcface", accepted=False, ask=lambda text: not told, tell=told.append)
    assert refused.value.code == "licence_not_accepted"
    assert "commercial use is NOT allowed" in told[0]


def test_verifying_says_where_no_model_is_registered(saved: Path, tmp_path: Path) -> None:
    told: list[str] = []
    registry = ModelRegistry(tmp_path / "models", shipped=tmp_path / "nothing")
    assert verify(registry, told.append) == []
    assert told == [f"No model is registered in {tmp_path / 'models'}; `headswap models list` says which there are."]
    add(registry, "mine", saved, licence="in-house")
    told.clear()
    assert [entry["name"] for entry in verify(registry, told.append)] == ["mine"]
    assert told == []


def test_an_estimate_counts_the_diffusion_renderers_steps(tmp_path: Path, examples: Path) -> None:
    register_random(tmp_path / "models", "headswap-demo")
    job = Job(id="one", source=str(examples / "portrait_ada.png"), target=str(examples / "clip_smile.mp4"), rights="synthetic")

    def seconds(**more: object) -> float:
        settings = load_settings({"profile": "demo", **more})
        with ArtifactStore.open(tmp_path / "store") as store:
            planner = Planner([job], store, settings, ModelRegistry(tmp_path / "models"))
            return Costs(planner, 1).seconds(Node("one", "render"))

    few, many = (seconds(renderer="diffusion", **{"stages.render.diffusion.steps": steps}) for steps in (10, 20))
    assert seconds(renderer="warp") < few < many
    assert seconds(renderer="diffusion", **{"stages.render.diffusion.guidance_scale": 1}) < many * 25 / 20


def test_gpus_share_what_is_done_on_them_and_workers_the_rest(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_random(tmp_path / "models", "headswap-demo")
    job = Job(id="one", source=str(examples / "portrait_ada.png"), target=str(examples / "clip_smile.mp4"), rights="synthetic")
    settings = load_settings({"profile": "demo", "renderer": "diffusion", "device": "cpu"})
    with ArtifactStore.open(tmp_path / "store") as store:
        planner = Planner([job], store, settings, ModelRegistry(tmp_path / "models"))
        render, encode = Node("one", "render"), Node("one", "encode")

        def seconds(workers: int, node: Node) -> float:
            return Costs(planner, workers).seconds(node)

        assert seconds(1, render) == pytest.approx(4 * seconds(4, render))
        on_cpu = seconds(1, render)
        for gpus in (1, 2):
            names = [f"cuda:{number}" for number in range(gpus)]
            monkeypatch.setattr(estimates, "device_names", lambda settings, names=names: names)
            assert seconds(1, render) == seconds(4, render)
            assert seconds(1, render) * gpus < on_cpu / 2
            assert seconds(1, encode) == pytest.approx(4 * seconds(4, encode))
