"""`headswap train`: from a data set to a pipeline with one command, and every problem of an order at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from flows.training import performer_options, run_training
from schemas.problems import ModelError, UsageError
from stages.networks.loading import load_pipeline
from stages.networks.registry import ModelRegistry
from stages.training.run import recipe_text
from tests.stages.training.made_up_networks import write_identity_network
from tests.stages.training.painted_windows import painted_records
from tests.stages.training.test_shards import write_dataset
from tests.stages.training.tiny_recipes import tiny_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_dataset(tmp_path_factory.mktemp("data"), [painted_records(8), painted_records(8, clip="b", person="q")])
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["splits"]["validation"] = {"shards": manifest["splits"]["train"]["shards"][1:]}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(tiny_recipe(steps=1)))
    return path


def test_one_order_makes_a_pipeline_of_a_data_set(data: Path, recipe: Path, tmp_path: Path) -> None:
    told = run_training("tiny", str(data), tmp_path / "out", ModelRegistry(tmp_path / "models"), recipe_file=recipe, device="cpu")
    assert set(told["measured"]) == set(told["phases"]) == {"autoencoder", "single-frames", "motion"}
    card = (Path(told["pipeline"]) / "README.md").read_text()
    assert "16 frames of 2 people, 8 frames of 1 people held out" in card
    assert "off: no identity network was registered" in card
    load_pipeline(Path(told["pipeline"]))
    again = run_training(
        "tiny", str(data), tmp_path / "out", ModelRegistry(tmp_path / "models"), recipe_file=recipe, device="cpu", resume=True
    )
    assert again == told


def test_a_head_model_that_is_none_is_told_before_anything_is_written(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no model")
    for name, code in (("none.npz", "model_missing"), ("text.npz", "model_wrong_kind")):
        with pytest.raises(ModelError) as caught:
            run_training(
                "tiny",
                "performers:",
                tmp_path / "out",
                ModelRegistry(tmp_path / "models"),
                recipe_file=recipe,
                device="cpu",
                head_model=tmp_path / name,
            )
        assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_samples_made_ahead_give_the_same_weights(data: Path, recipe: Path, tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        registry, out = ModelRegistry(tmp_path / "models"), tmp_path / f"out-{workers}"
        told = run_training("tiny", str(data), out, registry, recipe_file=recipe, device="cpu", workers=workers)
        found.append((Path(told["pipeline"]) / "denoising_net" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_the_registered_identity_network_is_used_and_named(data: Path, recipe: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    registry.add("arcface", write_identity_network(tmp_path / "identity.onnx"), allow_unknown_digest=True)
    told = run_training("tiny", str(data), tmp_path / "out", registry, recipe_file=recipe, device="cpu")
    assert f"on, network {registry.digest('arcface')}" in (Path(told["pipeline"]) / "README.md").read_text()
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert all("identity" in row for row in rows if row["phase"] == "single-frames" and "loss" in row)


def test_every_problem_of_an_order_is_told_at_once(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_training(
            "demo",
            "performers:people=0,seed=x",
            tmp_path / "out",
            ModelRegistry(tmp_path / "models"),
            recipe_file=recipe,
            start=tmp_path,
            device="toaster",
        )
    told = "\n".join(caught.value.problems)
    for said in ("for the preset tiny, not demo", "'toaster'", "--start", "seed must be a whole number"):
        assert said in told


def test_performers_are_chosen_by_a_url() -> None:
    chosen, problems = performer_options("performers:seed=11,people=4,frames=20")
    assert not problems
    assert chosen == {"seed": 11, "people": 4, "performances": 6, "held_out": 1, "frames": 20}
    assert len(performer_options("performers:size=3,people=many")[1]) == 2
    assert "held out" in performer_options("performers:held_out=6")[1][0]


def test_performers_need_the_head_model(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ict"):
        run_training(
            "tiny", "performers:", tmp_path / "out", ModelRegistry(tmp_path / "models"), recipe_file=recipe, device="cpu"
        )


def test_performers_are_rendered_and_trained_on(recipe: Path, tmp_path: Path, shared: Path) -> None:
    told = run_training(
        "tiny",
        "performers:people=1,performances=2,frames=4",
        tmp_path / "out",
        ModelRegistry(tmp_path / "models"),
        recipe_file=recipe,
        device="cpu",
        head_model=shared / "models" / "ict" / "ict_facekit.npz",
    )
    assert "1 synthetic performers (seed 0) rendered at 64 pixels" in (Path(told["pipeline"]) / "README.md").read_text()


def test_the_command_ends_with_status_two_on_a_wrong_order(tmp_path: Path) -> None:
    arguments = ["train", "--preset", "full", "--data", "performers:colour=red", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--start" in result.output
    assert "there is no setting 'colour'" in result.output
    assert not (tmp_path / "out").exists()
