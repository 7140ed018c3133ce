"""A run trains what its recipe says, survives kills to the bit, and tells what went wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from schemas.problems import ModelError, UsageError
from stages.networks.importing import Terms, import_pipeline
from stages.networks.loading import load_pipeline
from stages.networks.pose_guider import Normalisation
from stages.networks.presets import PRESETS, TINY, build, denoising_net
from stages.networks.registered import read_sampling, write_sampling
from stages.networks.runtime import computes_bfloat16
from stages.training import loop
from stages.training.checkpoints import STATE, Checkpoints
from stages.training.identity_network import load_identity_network
from stages.training.loop import layout
from stages.training.model_card import untrained_size
from stages.training.recipe import Recipe
from stages.training.run import Order, _without_bars, measured, train
from stages.training.run_record import FILE, Change, RunRecord, begin, changes_of
from stages.training.terms import Ingredient
from tests.stages.training.made_up_networks import write_identity_network
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.saved_weights import same, weights_of
from tests.stages.training.tiny_recipes import tiny_recipe


def order_of(out: Path, recipe: Recipe | None = None, **changes: object) -> Order:
    order = Order(recipe or tiny_recipe(), out, Discs(), Discs(seed=1), "discs", device="cpu", version="test")
    return replace(order, **changes)  # type: ignore[arg-type]


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
    assert json.loads((finished / "pipeline" / "sampling.json").read_text()) == order_of(finished).recipe.sampling


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


def test_the_latents_that_get_noise_have_unit_variance_after_the_autoencoder_was_trained(finished: Path) -> None:
    from stages.networks.vae import encode
    from stages.training.batches import planes

    vae = load_pipeline(finished / "pipelines" / "autoencoder").vae
    assert vae.config.scaling_factor != 0.18215
    pictures = np.stack([Discs().sample(number, 1).target[0] for number in range(64)])
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


def single_frames(**changes: object) -> Recipe:
    """Stage one alone, as small as it gets, from a saved pipeline: no autoencoder has to be trained first."""
    recipe = tiny_recipe(start="published", phases=tiny_recipe(steps=3).phases[1:2])
    return with_phase(recipe, **{"size": 32, "batch": 1, "accumulate": 1, "judged": 0, "cached_samples": 2, **changes})


def with_phase(recipe: Recipe, number: int = 0, **changes: object) -> Recipe:
    """With other values of a phase or of its ``optimisation``."""
    content = recipe.model_dump()
    phase = content["phases"][number]
    for name, value in changes.items():
        (phase if name in phase else phase["optimisation"])[name] = value
    return Recipe.model_validate(content)


def saved_pipeline(folder: Path, normalisation: Normalisation = "frame", card: str = "", **unet: object) -> Path:
    preset = replace(TINY, pose=replace(TINY.pose, normalisation=normalisation), unet=replace(TINY.unet, **unet))
    build(preset, seed=3).save_pretrained(folder)
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
    return folder


def test_a_killed_run_goes_on_to_the_bit_where_weights_lie_channels_last(tmp_path: Path) -> None:
    vae = build(PRESETS["demo"], seed=3).vae
    assert layout(vae, torch.device("cpu")) is torch.channels_last
    recipe = tiny_recipe(preset="demo", phases=tiny_recipe(steps=3).phases[:1])
    whole = train(order_of(tmp_path / "whole", recipe))
    killed = order_of(tmp_path / "killed", recipe)
    with pytest.raises(KilledError):
        train(killed, tell=killed_at(3))
    train(killed, resume=True)
    for place in ("pipelines/autoencoder/vae", "checkpoints/autoencoder"):
        assert same(weights_of(tmp_path / "killed" / place), weights_of(tmp_path / "whole" / place)), place
    assert all(tensor.is_contiguous() for tensor in load_pipeline(whole).vae.parameters())


def test_modules_with_a_group_normalisation_stay_in_the_layout_that_is_safe() -> None:
    assert layout(build(TINY, seed=3).vae, torch.device("cpu")) is torch.contiguous_format


def killed_at(step: int):  # type: ignore[no-untyped-def]
    def tell(phase: str, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        if done == step:
            raise KilledError

    return tell


@pytest.mark.parametrize("normalisation", ["window", "running"])
def test_a_killed_run_goes_on_to_the_bit_where_normalisations_keep_statistics(
    tmp_path: Path, normalisation: Normalisation, caplog: pytest.LogCaptureFixture
) -> None:
    start, recipe = saved_pipeline(tmp_path / "start", normalisation), single_frames(steps=2)
    whole = weights_of(train(order_of(tmp_path / "whole", recipe, start=start)))
    moved = [name for name in whole if name.endswith("running_mean")]
    assert moved
    assert all(whole[name].any() for name in moved)
    order = order_of(tmp_path / "killed", recipe, start=start)
    with pytest.raises(KilledError):  # told before it is saved: step 1 is in a checkpoint, step 2 in none
        train(order, tell=killed_at(2))
    if normalisation == "window":
        as_before = Checkpoints(tmp_path / "killed" / "checkpoints" / "single-frames", 2).path(1)
        older = tmp_path / "older" / "checkpoints" / "single-frames" / as_before.name
        shutil.copytree(tmp_path / "killed", tmp_path / "older")
        (older / "buffers.safetensors").unlink()
        (older / STATE).write_text('{"step": 1}')  # as earlier versions wrote it
        train(replace(order, out=tmp_path / "older"), resume=True)
        assert "without the running statistics" in caplog.text
        caplog.clear()
        shutil.copytree(tmp_path / "killed", tmp_path / "torn")
        (tmp_path / "torn" / older.relative_to(tmp_path / "older") / "buffers.safetensors").unlink()
        with pytest.raises(ModelError, match="cannot be read"):
            train(replace(order, out=tmp_path / "torn"), resume=True)
    assert same(weights_of(train(order, resume=True)), whole)
    assert "running statistics" not in caplog.text


def test_some_of_a_recipe_may_change_on_the_way_and_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = saved_pipeline(tmp_path / "start")
    order = order_of(tmp_path / "out", single_frames(), start=start)
    with pytest.raises(KilledError):
        train(order, tell=killed_at(2))
    gentler = single_frames(learning_rate=1e-4, clip=0.5, warmup=1, steps=2)
    with pytest.raises(UsageError, match="holds a training run already"):
        train(replace(order, recipe=gentler))
    for wrong in (single_frames(batch=2), single_frames(weight_decay=0.5), single_frames(precision="bfloat16")):
        with pytest.raises(UsageError, match="may change"):
            train(replace(order, recipe=wrong), resume=True)
    assert changes_of(order.out) == []
    out = train(replace(order, recipe=gentler), resume=True)
    assert changes_of(order.out) == [
        Change("single-frames", 1, "clip", 1.0, 0.5),
        Change("single-frames", 1, "learning_rate", 1e-3, 1e-4),
        Change("single-frames", 1, "warmup", 2, 1),
        Change("single-frames", 1, "steps", 3, 2),
    ]
    assert "learning_rate is 0.0001 instead of 0.001" in caplog.text
    assert "- single-frames, after step 1: learning_rate 0.001 became 0.0001" in (out / "README.md").read_text()
    rows = [json.loads(line) for line in (order.out / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["learning_rate"] for row in rows if "loss" in row}
    assert rates[1] == pytest.approx(5e-4)
    assert rates[2] == pytest.approx(1e-4)
    assert json.loads((order.out / "run.json").read_text())["recipe"] == gentler.model_dump(mode="json")
    # What is finished, or already done, does not change any more.
    told = "phases.single-frames.steps: the run says 2, the order 5; the phase single-frames is finished"
    with pytest.raises(UsageError, match=re.escape(told)):
        train(replace(order, recipe=single_frames(learning_rate=1e-4, clip=0.5, warmup=1, steps=5)), resume=True)
    shutil.rmtree(order.out / "pipelines")
    with pytest.raises(UsageError, match="the order 1; 2 steps are done"):
        train(replace(order, recipe=single_frames(learning_rate=1e-4, clip=0.5, warmup=1, steps=1)), resume=True)


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


def test_a_run_that_was_killed_before_its_record_was_whole_begins_anew(tmp_path: Path) -> None:
    order = order_of(tmp_path / "out")
    order.out.mkdir()
    (order.out / f".{FILE}.4711.partial").write_text("{")
    begin(order.out, RunRecord(order.recipe, "people", "", "nothing", None, 1), resume=True)
    assert [path.name for path in order.out.iterdir()] == [FILE]


def test_a_run_does_not_go_on_with_another_recipe_or_other_data(finished: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(order_of(finished, tiny_recipe(seed=4, steps=3), data="squares"), resume=True)
    told = "\n".join(caught.value.problems)
    assert "seed: the run says 3, the order 4" in told
    for phase in ("autoencoder", "single-frames", "motion"):
        assert f"phases.{phase}.steps: the run says 2, the order 3" in told
    assert 'data: the run says "discs", the order "squares"' in told
    assert 'identity: the run says "sha256:made-up", the order null' in told


def test_a_phase_is_named_in_a_difference_as_it_is_in_the_recipe(finished: Path) -> None:
    recipe = with_phase(tiny_recipe(), 2, batch=2, betas=(0.9, 0.99))
    recipe = with_phase(recipe, 1, name="another", batch=1)
    with pytest.raises(UsageError) as caught:
        train(order_of(finished, recipe), resume=True)
    differences = [problem for problem in caught.value.problems if problem.startswith("phases")]
    assert differences == [
        "phases.2.batch: the run says 2, the order 1.",
        'phases.2.name: the run says "single-frames", the order "another".',
        "phases.motion.batch: the run says 1, the order 2.",
        "phases.motion.optimisation.betas.2: the run says 0.999, the order 0.99.",
    ]


def test_a_size_that_is_drawn_but_never_trained_is_warned_of_and_stands_in_the_card(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = "Pictures are drawn at 64 pixels (preset tiny), which no phase of kind diffusion trains at: only at 32."
    out = train(order_of(tmp_path / "out", single_frames(steps=1), start=saved_pipeline(tmp_path / "start")))
    assert [record.levelname for record in caplog.records if told in record.getMessage()] == ["WARNING"]
    assert told in (out / "README.md").read_text()
    assert "which no phase" not in (finished / "pipeline" / "README.md").read_text()
    assert untrained_size(tiny_recipe()) == ""
    assert untrained_size(tiny_recipe(phases=tiny_recipe().phases[:1])) == "", "nothing is drawn"
    assert "only at 32, 64." in untrained_size(tiny_recipe(preset="demo"))


def test_no_bars_of_the_library_are_shown_and_what_others_set_about_bars_holds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[object] = []

    def hook(kind: Any, given: Any, named: Any) -> Any:
        seen.append(named["desc"])
        return kind(*given, **named)

    order = order_of(tmp_path / "out", single_frames(steps=1), start=saved_pipeline(tmp_path / "start"))
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.enable_progress_bar()
    before = transformers_logging.set_tqdm_hook(hook)
    try:
        capfd.readouterr()
        with _without_bars():
            build(TINY, seed=3).save_pretrained(tmp_path / "quiet")
        assert not seen
        assert "shards" not in capfd.readouterr().err
        assert transformers_logging.is_progress_bar_enabled()
        build(TINY, seed=3).save_pretrained(tmp_path / "loud")
        assert seen == ["Writing model shards"]
        assert "Writing model shards" in capfd.readouterr().err
        seen.clear()
        train(order)
        assert "Writing model shards" not in seen
    finally:
        assert transformers_logging.set_tqdm_hook(before) is hook
        if not shown:
            transformers_logging.disable_progress_bar()


def test_the_time_a_step_takes_is_that_of_the_last_steps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    lasting = iter([100.0, 1.0, 1.0, 2.0, 4.0, 6.0])

    def after(seconds: Callable[[], float], function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*given: Any, **named: Any) -> Any:
            clock[0] += seconds()
            return function(*given, **named)

        return slow

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(loop, "_step", after(lambda: next(lasting), loop._step))
    monkeypatch.setattr(Checkpoints, "save", after(lambda: 1000.0, Checkpoints.save))
    monkeypatch.setattr("stages.training.run.validate_diffusion", after(lambda: 5000.0, lambda *given: {"psnr": 1.0}))
    recipe = single_frames(steps=6)
    keeping = recipe.phases[0].keeping.model_copy(update={"log_every": 2, "save_every": 1, "validate_every": 1})
    recipe = recipe.model_copy(update={"phases": (recipe.phases[0].model_copy(update={"keeping": keeping}),)})
    told: list[float] = []
    order = order_of(tmp_path / "out", recipe, start=saved_pipeline(tmp_path / "start"))
    train(order, tell=lambda phase, step, steps, metrics: told.append(metrics["seconds_per_step"]))
    assert told == [1.0, 1.5, 5.0], "without the pause before the first step, checkpoints and validations"
    rows = [json.loads(line) for line in (order.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["seconds_per_step"] for row in rows if "loss" in row] == told


def test_other_data_are_other_data_whatever_they_are_called(tmp_path: Path) -> None:
    order = order_of(tmp_path / "out", single_frames(), start=saved_pipeline(tmp_path / "start"), data_digest="one")
    with pytest.raises(KilledError):
        train(order, tell=killed_at(1))
    with pytest.raises(UsageError, match='the digest of the data: the run says "one", the order "two"'):
        train(replace(order, data_digest="two"), resume=True)
    with pytest.raises(KilledError):
        train(replace(order, data="the same in other words"), resume=True, tell=killed_at(1))
    told = json.loads((order.out / "run.json").read_text())
    assert told["processes"] == 1
    (order.out / "run.json").write_text(json.dumps({**told, "processes": 2}))
    with pytest.raises(UsageError, match="the number of processes: the run says 2, the order 1"):
        train(order, resume=True)


def test_a_field_of_recipes_that_came_later_is_no_difference(tmp_path: Path) -> None:
    order = order_of(tmp_path / "out", single_frames(steps=1), start=saved_pipeline(tmp_path / "start"))
    train(order)
    told = json.loads((order.out / "run.json").read_text())
    for name in ("data_digest", "processes", "changes"):
        del told[name]  # as earlier versions wrote it
    del told["recipe"]["phases"][0]["noise_offset"], told["recipe"]["phases"][0]["optimisation"]["betas"]
    (order.out / "run.json").write_text(json.dumps(told))
    assert train(order, resume=True).is_dir()
    assert json.loads((order.out / "run.json").read_text())["recipe"]["phases"][0]["noise_offset"] == 0.05


@pytest.mark.parametrize("content", ["", "[1]", '{"recipe": '])
def test_a_record_that_cannot_be_read_is_told_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ModelError, match=r"run\.json.* cannot be read") as caught:
        train(order_of(tmp_path), resume=True)
    assert caught.value.code == "run_damaged"
    assert "--out" in caught.value.remedy


def test_what_a_killed_process_left_half_written_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    order = order_of(tmp_path / "out", single_frames(steps=2), start=saved_pipeline(tmp_path / "start"))
    with pytest.raises(KilledError):
        train(order, tell=killed_at(2))
    left = order.out / "checkpoints" / "single-frames" / ".00000017.partial"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(bytes(100))
    train(order, resume=True)
    assert not left.exists()


def test_the_card_says_under_which_terms_and_why(tmp_path: Path) -> None:
    network = load_identity_network(write_identity_network(tmp_path / "identity.onnx"))
    identity = {"identity": (network, "x"), "identity_terms": Ingredient("the identity network", "research only", False)}
    start = saved_pipeline(tmp_path / "start", card="license: mit")
    out = train(order_of(tmp_path / "unasked", single_frames(steps=1), start=start, **identity))  # judged: 0
    assert (out / "README.md").read_text().startswith("---\nlicense: mit\ncommercial: true\n")
    out = train(order_of(tmp_path / "asked", single_frames(steps=1, judged=1), start=start, **identity))
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: mit; research only\ncommercial: false\n")
    assert "- the identity network: research only, NOT for commercial use" in card
    (tmp_path / "registered").mkdir()
    registered = import_pipeline("own", out, tmp_path / "registered", Terms())
    assert (registered.licence, registered.commercial) == ("mit; research only", False)


def test_a_pipeline_that_the_recipe_does_not_fit_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    motion = tiny_recipe(start="published", phases=tiny_recipe().phases[1:])
    larger = saved_pipeline(tmp_path / "larger", channels=(8, 24))
    pipeline = build(TINY)
    pipeline.register_modules(denoising_net=denoising_net(TINY, motion=False))
    pipeline.save_pretrained(tmp_path / "still")
    with pytest.raises(UsageError, match=r"other sizes \(channels \[8, 24\]"):
        train(order_of(tmp_path / "out", motion, start=larger))
    with pytest.raises(UsageError, match="no motion modules, which phase motion trains"):
        train(order_of(tmp_path / "out", motion, start=tmp_path / "still"))
    assert not (tmp_path / "out").exists()


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
    source = Checkpoints(finished / "checkpoints" / "motion", keep=2).load(2)
    for step in (1, 2):
        checkpoints.save(replace(source, step=step))
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


def test_what_the_first_weights_say_of_sampling_stays_and_is_read_before_anything_is_trained(tmp_path: Path) -> None:
    start = saved_pipeline(tmp_path / "start")
    write_sampling(start, {"solver": "unipc", "steps": 30, "window": 8, "overlap": 2})
    recipe = single_frames(steps=1)
    out = train(order_of(tmp_path / "out", recipe, start=start))
    wanted = {"solver": "unipc", "window": 8, "overlap": 2, **recipe.sampling}
    assert read_sampling(out) == wanted
    assert "Sampled with solver unipc, steps 1," in (out / "README.md").read_text()
    (start / "sampling.json").write_text('{"window": 2, "overlap": 2}')
    with pytest.raises(ModelError, match="overlap 2 must be less than window 2"):
        train(order_of(tmp_path / "never", recipe, start=start))
    assert not (tmp_path / "never").exists()
