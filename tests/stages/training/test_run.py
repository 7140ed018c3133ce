"""A run trains what its recipe says, survives kills to the bit, and tells what went wrong."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from schemas.problems import ModelError, UsageError
from stages.networks.loading import load_pipeline
from stages.networks.presets import TINY, build
from stages.training.checkpoints import STATE, Checkpoints
from stages.training.identity_network import load_identity_network
from stages.training.recipe import Recipe
from stages.training.run import Order, computes_bfloat16, measured, train
from tests.stages.training.made_up_networks import write_identity_network
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.tiny_recipes import tiny_recipe


def order_of(out: Path, recipe: Recipe | None = None, **changes: object) -> Order:
    order = Order(recipe or tiny_recipe(), out, Discs(), Discs(seed=1), "discs", device="cpu", version="test")
    return replace(order, **changes)  # type: ignore[arg-type]


def weights_of(pipeline: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}.{name}": tensor
        for file in sorted(pipeline.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    network = load_identity_network(write_identity_network(out.parent / "identity.onnx"))
    train(order_of(out, identity=(network, "sha256:made-up")))
    return out


def test_the_result_is_a_pipeline_with_a_card_that_generates(finished: Path) -> None:
    pipeline = load_pipeline(finished / "pipeline")
    sample = Discs(seed=1).sample(0, 2)
    pictures = pipeline(sample.reference, sample.drawing, sample.background)
    assert pictures.shape == (2, 64, 64, 3)
    card = (finished / "pipeline" / "README.md").read_text()
    for said in ("recipe `tiny`", "discs", "sha256:made-up", "2 of 2", "must not be used", "apache-2.0", "learning_rate"):
        assert said in card


def test_each_phase_changes_what_it_trains_and_nothing_else(finished: Path) -> None:
    before = build(TINY, seed=3)
    after = [weights_of(finished / "pipelines" / name) for name in ("autoencoder", "single-frames", "motion")]
    start = {f"vae.{name}": value for name, value in before.vae.state_dict().items()}
    start |= {f"denoising_net.{name}": value for name, value in before.denoising_net.state_dict().items()}
    changed = []
    for old, new in zip([start, *after], after, strict=False):
        changed.append({name for name, value in old.items() if not torch.equal(value, new[name])})
    assert {name.partition(".")[0] for name in changed[0]} == {"vae"}
    assert {name.partition(".")[0] for name in changed[1]} == {"appearance_net", "denoising_net", "pose_guider", "image_encoder"}
    assert not any("motion_modules" in name for name in changed[1])
    assert changed[2]
    assert all("motion_modules" in name for name in changed[2])


def test_the_latents_of_the_trained_autoencoder_have_unit_variance(finished: Path) -> None:
    from stages.networks.vae import encode
    from stages.training.batches import planes

    vae = load_pipeline(finished / "pipelines" / "autoencoder").vae
    assert vae.config.scaling_factor != 0.18215
    pictures = np.concatenate([np.stack([s.target[0], s.reference]) for s in (Discs().sample(n, 1) for n in range(64))])
    assert float(encode(vae, planes(pictures).float() / 255).std()) == pytest.approx(1, abs=0.02)


def test_metrics_and_pictures_are_written(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if row["phase"] == "single-frames" and "loss" in row]
    assert [row["step"] for row in losses] == [1, 2]
    assert {"ldm", "head", "identity", "gradient", "learning_rate"} <= losses[0].keys()
    assert losses[0]["loss"] == pytest.approx(losses[0]["ldm"] + 0.5 * losses[0]["head"] + 0.1 * losses[0]["identity"], abs=1e-4)
    assert set(measured(finished)) == {"autoencoder", "single-frames", "motion"}
    assert [path.name for path in sorted((finished / "validation").iterdir())] == [
        f"{name}-0000002.png" for name in ("autoencoder", "motion", "single-frames")
    ]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("moments", [[("autoencoder", 1), ("single-frames", 1)], [("single-frames", 2), ("motion", 1)]])
def test_a_killed_run_goes_on_to_the_bit(finished: Path, tmp_path: Path, moments: list[tuple[str, int]]) -> None:
    network = load_identity_network(write_identity_network(tmp_path / "identity.onnx"))
    order = order_of(tmp_path / "out", identity=(network, "sha256:made-up"))
    for moment in moments:

        def kill(phase: str, step: int, steps: int, metrics: Mapping[str, float], moment: tuple[str, int] = moment) -> None:
            del steps, metrics
            if (phase, step) == moment:
                raise KilledError

        with pytest.raises(KilledError):
            train(order, resume=True, tell=kill)
    assert same(weights_of(train(order, resume=True)), weights_of(finished / "pipeline"))
    for phase in ("autoencoder", "single-frames", "motion"):  # in single precision: the last bit too
        assert same(weights_of(tmp_path / "out" / "pipelines" / phase), weights_of(finished / "pipelines" / phase))
    steps = [
        (row["phase"], row["step"])
        for row in map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
        if "loss" in row
    ]
    assert len(steps) == len(set(steps)) == 6


def test_a_run_killed_while_it_validates_makes_up_for_it(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe()
    order = order_of(tmp_path / "out", recipe.model_copy(update={"phases": recipe.phases[:1]}))

    def killed(*arguments: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("stages.training.run.validate_autoencoder", killed)
        with pytest.raises(KilledError):
            train(order)
    assert Checkpoints(order.out / "checkpoints" / "autoencoder", 2).steps()[-1] == 2
    assert measured(order.out) == {}
    train(order, resume=True)
    assert measured(order.out) == {"autoencoder": measured(finished)["autoencoder"]}
    assert (order.out / "validation" / "autoencoder-0000002.png").is_file()


def test_sigterm_saves_a_checkpoint_and_then_takes_its_course(finished: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(save_every=1000)
    recipe = recipe.model_copy(update={"phases": (recipe.phases[0],)})
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))

    def stop(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with pytest.raises(KeyboardInterrupt):
            train(order_of(tmp_path / "out", recipe), tell=stop)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM]
    assert Checkpoints(tmp_path / "out" / "checkpoints" / "autoencoder", 2).steps() == [1]
    assert not (tmp_path / "out" / "pipelines").exists()


def test_an_occupied_folder_is_left_alone(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a training run already"):
        train(order_of(finished))
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UsageError, match="holds files, but no training run"):
        train(order_of(tmp_path), resume=True)


def test_a_run_does_not_go_on_with_another_recipe_or_other_data(finished: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(order_of(finished, tiny_recipe(seed=4, steps=3), data="squares"), resume=True)
    told = "\n".join(caught.value.problems)
    assert "seed: the run says 3, the order 4" in told
    assert "phases.0.steps: the run says 2, the order 3" in told
    assert 'data: the run says "discs", the order "squares"' in told
    assert 'identity: the run says "sha256:made-up", the order null' in told


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_the_precision_that_the_machine_is_good_at_is_chosen_and_written_down(
    has_bfloat16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_bfloat16)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    assert computes_bfloat16(torch.device("cpu")) == has_bfloat16
    content = tiny_recipe(steps=1).model_dump()
    content["phases"] = content["phases"][:1]
    content["phases"][0]["optimisation"]["precision"] = "auto"
    train(order_of(tmp_path / "auto", Recipe.model_validate(content)))
    chosen = json.loads((tmp_path / "auto" / "run.json").read_text())["recipe"]["phases"][0]["optimisation"]["precision"]
    assert chosen == ("bfloat16" if has_bfloat16 else "float32")
    assert "emulates" not in caplog.text
    content["phases"][0]["optimisation"]["precision"] = "bfloat16"
    train(order_of(tmp_path / "asked", Recipe.model_validate(content)))
    assert ("only emulates bfloat16" in caplog.text) == (not has_bfloat16)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    recipe = tiny_recipe(steps=3)
    phase = recipe.phases[0]
    wild = phase.model_copy(update={"optimisation": phase.optimisation.model_copy(update={"learning_rate": 1e30})})
    with pytest.raises(ModelError, match="not finite in step") as caught:
        train(order_of(tmp_path / "out", recipe.model_copy(update={"phases": (wild, *recipe.phases[1:])})))
    assert caught.value.code == "training_diverged"
    assert f"last good checkpoint is {tmp_path / 'out' / 'checkpoints' / 'autoencoder'}" in caught.value.message
    assert not (tmp_path / "out" / "pipeline").exists()


def test_a_damaged_checkpoint_is_told_with_the_one_before_it(finished: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "phase", keep=2)
    source = Checkpoints(finished / "checkpoints" / "motion", keep=2)
    for step in (1, 2):
        checkpoints.save(source.load(step))
    file = checkpoints.path(2) / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be read") as caught:
        checkpoints.load(2)
    assert str(checkpoints.path(1)) in caught.value.remedy


def test_half_written_checkpoints_do_not_count_and_old_ones_go(finished: Path, tmp_path: Path) -> None:
    source = Checkpoints(finished / "checkpoints" / "motion", keep=2).load(2)
    checkpoints = Checkpoints(tmp_path / "phase", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(replace(source, step=step))
    assert checkpoints.steps() == [2, 3]
    (checkpoints.path(3) / STATE).unlink()
    (tmp_path / "phase" / ".00000004.partial").mkdir()
    assert checkpoints.steps() == [2]


def test_published_weights_are_the_beginning_where_the_recipe_says_so(finished: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(start="published", phases=tiny_recipe(steps=1).phases[1:2])
    with pytest.raises(UsageError, match="--start"):
        train(order_of(tmp_path / "none", recipe))
    assert not (tmp_path / "none").exists()
    out = train(order_of(tmp_path / "out", recipe, start=finished / "pipelines" / "autoencoder"))
    old, new = weights_of(finished / "pipelines" / "autoencoder"), weights_of(out)
    frozen = [name for name in old if name.startswith("vae")]
    assert frozen
    assert all(torch.equal(old[name].half(), new[name]) for name in frozen)
    assert not torch.equal(old["denoising_net.conv_out.weight"].half(), new["denoising_net.conv_out.weight"])
    with pytest.raises(UsageError, match="start: the run says"):
        train(order_of(tmp_path / "out", recipe, start=finished / "pipelines" / "motion"), resume=True)
