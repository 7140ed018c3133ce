"""`headswap train`: from a data set to a pipeline with one command, and every problem of an order at once."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

from cli import app
from flows import training
from flows.training import StepLines, performer_options, run_training
from schemas.problems import ModelError, StoreError, UsageError
from stages.networks.loading import load_pipeline
from stages.networks.presets import TINY, build, denoising_net
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
    # It goes on by its own recipe, whatever ships by then under the preset's name (here: nothing).
    for file in (recipe, None):
        again = run_training(
            "tiny", str(data), tmp_path / "out", ModelRegistry(tmp_path / "models"), recipe_file=file, device="cpu", resume=True
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


def test_a_package_that_a_phase_lacks_is_told_before_anything_is_trained_unless_the_phase_is_done(
    data: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = yaml.safe_load(recipe.read_text())
    name = given["phases"][-1]["name"]
    given["phases"][-1]["optimisation"]["eight_bit"] = True
    recipe.write_text(yaml.safe_dump(given))
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)

    def ordered(device: str) -> None:
        registry = ModelRegistry(tmp_path / "models")
        run_training("tiny", str(data), tmp_path / "out", registry, recipe_file=recipe, device=device)

    with pytest.raises(UsageError) as caught:
        ordered("toaster")
    assert len(caught.value.problems) == 2, "all that is wrong, at once"
    assert f"eight_bit: true ({name}), and bitsandbytes is not installed" in caught.value.problems[0]
    assert not (tmp_path / "out").exists()
    (tmp_path / "out" / "pipelines" / name).mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        ordered("toaster")
    assert len(caught.value.problems) == 1


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


def test_what_can_be_known_without_a_recipe_is_told_together_with_what_is_wrong_with_it(
    data: Path, recipe: Path, tmp_path: Path
) -> None:
    def problems(recipe_file: Path, of: str, out: Path = tmp_path / "out", **more: Any) -> list[str]:
        with pytest.raises(UsageError) as caught:
            run_training("tiny", of, out, ModelRegistry(tmp_path / "models"), recipe_file=recipe_file, device="toaster", **more)
        assert "docs/training.md" in caught.value.remedy
        assert not (tmp_path / "out").exists()
        return list(caught.value.problems)

    def told(found: list[str], *said: str) -> bool:
        return all(part in problem for part, problem in zip(said, found, strict=True))

    nowhere, start = str(tmp_path / "nowhere"), tmp_path / "no-pipeline"
    missing, wrong = tmp_path / "nosuch.yaml", written(tmp_path / "wrong.yaml", batch=0, stepz=1)
    no_recipe, no_device, no_data = "There is no recipe", "'toaster'", "no finished data set"
    assert told(problems(missing, nowhere, start=start), no_recipe, no_device, f"no folder {start}", no_data)
    assert told(problems(wrong, nowhere), "motion.batch: must be 1 or more", "motion.stepz", no_device, no_data)
    assert told(problems(missing, str(data)), no_recipe, no_device), "data that are there are no problem"
    assert told(problems(missing, "performers:people=0", Path("/")), no_recipe, "root of a file system", no_device, "people")
    # Damage is no mistake in the order; where there are mistakes it is told with them, else as what it is.
    damaged = tmp_path / "damaged"
    shutil.copytree(data, damaged)
    (damaged / "segments.parquet").write_bytes(b"no table")
    assert told(problems(missing, str(damaged)), no_recipe, no_device, "segments.parquet")
    with pytest.raises(StoreError, match=r"segments\.parquet"):
        run_training("tiny", str(damaged), tmp_path / "out", ModelRegistry(tmp_path / "models"), recipe_file=recipe, device="cpu")


def test_the_time_that_is_left_follows_from_the_last_steps() -> None:
    text = io.StringIO()
    lines = StepLines(Console(file=text, width=200), every=0.0)
    lines("motion", 10, 130, {"loss": 0.5, "seconds_per_step": 60.0})
    lines("motion", 70, 130, {"loss": 0.25, "seconds_per_step": 2.0})
    assert text.getvalue().splitlines() == [
        "motion: step 10 of 130, loss 0.5000, 120 min left",
        "motion: step 70 of 130, loss 0.2500, 2 min left",
    ]


def written(path: Path, **changes: object) -> Path:
    """A recipe whose last phase has other values."""
    content = tiny_recipe(steps=1).model_dump(mode="json")
    content["phases"][-1].update(changes)
    path.write_text(yaml.safe_dump(content))
    return path


def test_what_a_later_phase_needs_is_asked_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    out, registry = tmp_path / "out", ModelRegistry(tmp_path / "models")

    def refused(preset: str, of: str, recipe_file: Path | None, **more: Any) -> UsageError:
        with pytest.raises(UsageError) as caught:
            run_training(preset, of, out, registry, recipe_file=recipe_file, device="cpu", **more)
        assert not out.exists()
        return caught.value

    long = refused("tiny", str(data), written(tmp_path / "long.yaml", frames=12))
    assert [split in problem for split, problem in zip(("train", "validation"), long.problems, strict=True)] == [True, True]
    assert all("no 12 consecutive frames" in problem for problem in long.problems)
    assert "shortest_segment=12" in long.remedy
    assert "windows of 8 frames, performances have 4: give frames=8" in str(refused("demo", "performers:frames=4", None))
    content = tiny_recipe(steps=1).model_dump(mode="json")
    for size in (72, 32):
        content["phases"] = [{**content["phases"][0], "size": size}, *({**phase, "size": 32} for phase in content["phases"][1:])]
        (tmp_path / "odd.yaml").write_text(yaml.safe_dump(content))
        assert f"the largest size of the recipe tiny is {size}" in str(refused("tiny", "performers:", tmp_path / "odd.yaml"))
        if size == 72:
            assert "Samples of 72 pixels" in str(refused("tiny", str(data), tmp_path / "odd.yaml"))
    # With everything else that is wrong.
    build(replace(TINY, unet=replace(TINY.unet, channels=(8, 24)))).save_pretrained(tmp_path / "larger")
    pipeline = build(TINY)
    pipeline.register_modules(denoising_net=denoising_net(TINY, motion=False))
    pipeline.save_pretrained(tmp_path / "still")
    published = {**tiny_recipe(steps=1).model_dump(mode="json"), "start": "published"}
    published["phases"] = published["phases"][1:]
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(published))
    told = refused("demo", str(tmp_path / "nowhere"), tmp_path / "published.yaml", start=tmp_path / "larger").problems
    for said, problem in zip(("for the preset tiny, not demo", "has other sizes", "no finished data set"), told, strict=True):
        assert said in problem
    assert "no motion modules" in str(refused("tiny", str(data), tmp_path / "published.yaml", start=tmp_path / "still"))


def test_a_folder_without_a_name_is_one_all_the_same(
    recipe: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(tmp_path / "models")
    with pytest.raises(UsageError, match="root of a file system"):
        run_training("tiny", str(data), Path("/"), registry, recipe_file=recipe, device="cpu")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelError, match="ict"):  # reached: the folder was no problem
        run_training("tiny", "performers:", Path("."), registry, recipe_file=recipe, device="cpu")


def test_terms_and_digest_of_the_data_stay_with_the_run(data: Path, recipe: Path, tmp_path: Path) -> None:
    mine, registry = tmp_path / "data", ModelRegistry(tmp_path / "models")
    shutil.copytree(data, mine)
    manifest = json.loads((mine / "dataset.json").read_text())
    manifest["clips"] = [{"rights": "CC BY-NC 4.0", "used": 8}, {"rights": "research only, but unused", "used": 0}]
    (mine / "dataset.json").write_text(json.dumps(manifest))
    registry.add("arcface", write_identity_network(tmp_path / "identity.onnx"), allow_unknown_digest=True)
    told = run_training("tiny", str(mine), tmp_path / "out", registry, recipe_file=recipe, device="cpu")
    card = (Path(told["pipeline"]) / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["commercial"] is False
    assert header["license"] == f"{registry.entry('arcface').licence}; rights of the training data: CC BY-NC 4.0"
    assert "- the identity network: non-commercial" in card
    (mine / "dataset.json").write_text(json.dumps({**manifest, "clips": []}))
    with pytest.raises(UsageError, match="the digest of the data"):
        run_training("tiny", str(mine), tmp_path / "out", registry, recipe_file=recipe, device="cpu", resume=True)


def test_performers_are_chosen_by_a_url() -> None:
    chosen, problems = performer_options("performers:seed=11,people=4,frames=20")
    assert not problems
    assert chosen == {"seed": 11, "people": 4, "performances": 6, "held_out": 1, "frames": 20}
    assert len(performer_options("performers:size=3,people=many")[1]) == 2
    assert "6 of 6 performances are held out" in performer_options("performers:held_out=6")[1][0]


def test_all_that_is_wrong_with_performers_is_told_at_once() -> None:
    def problems(options: str) -> list[str]:
        return [problem.removeprefix(f"performers:{options}: ") for problem in performer_options(f"performers:{options}")[1]]

    assert problems("people=0,foo=1") == [
        "there is no setting 'foo'; known are frames, held_out, people, performances, seed.",
        "people must be 1 or more, not 0.",
    ]
    assert problems("peple=3,frames=1,held_out=0") == [
        "there is no setting 'peple'; did you mean 'people'?",
        "frames must be 2 or more, not 1.",
        "0 of 6 performances are held out; at least one must be, and another one be left to train on.",
    ]
    assert problems("held_out=9,performances=x") == ["performances must be a whole number, not 'x'."], "6 is nobody's choice here"


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


def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_trained(
    data: Path, recipe: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.yaml"
    half.write_text(recipe.read_text().replace("precision: float32", "precision: float16"))
    with pytest.raises(UsageError, match=r"The phase autoencoder of the recipe tiny: cpu does not compute in float16") as caught:
        run_training("tiny", str(data), tmp_path / "run", ModelRegistry(tmp_path / "models"), recipe_file=half, device="cpu")
    assert len(caught.value.problems) == 3, "every phase"
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_this_pytorch_has_no_code_for_is_refused_before_anything_is_trained(
    data: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=6, minor=1))
    with pytest.raises(UsageError, match=r"is built for sm_90, but cuda:0 is an sm_61") as caught:
        run_training("tiny", str(data), tmp_path / "run", ModelRegistry(tmp_path / "models"), recipe_file=recipe)
    assert "--device cpu" in caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("store", "data", "taken"),
    [
        (None, "s3://sets/one", True),
        ("s3://work", "s3://sets/one", True),
        ("store", "s3://sets/one", True),
        ("s3://work", "sftp://sets/one", False),
    ],
)
def test_data_are_read_with_the_options_of_the_store_or_their_own_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str | None, data: str, taken: bool
) -> None:
    options = {"endpoint_url": "http://storage.example"}
    seen: list[Any] = []
    monkeypatch.setattr(training, "run_training", lambda *arguments, **more: seen.append(more["storage_options"]))
    (tmp_path / "night.yaml").write_text(yaml.safe_dump({"storage_options": options, **({"store": store} if store else {})}))
    command = ["train", "--preset", "demo", "--data", data, "--out", str(tmp_path / "run")]
    ended = CliRunner().invoke(app, [*command, "--config", str(tmp_path / "night.yaml")])
    assert ended.exit_code == 0, ended.output
    assert seen == [options if taken else {}]


def test_options_that_the_place_of_the_data_does_not_take_are_told(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="with these options") as caught:
        run_training(
            "tiny",
            "http://127.0.0.1:9/set",
            tmp_path / "run",
            ModelRegistry(tmp_path / "models"),
            recipe_file=recipe,
            storage_options={"key": "k"},
        )
    assert "place_options" in caught.value.remedy


def test_the_command_ends_with_status_two_on_a_wrong_order(tmp_path: Path) -> None:
    arguments = ["train", "--preset", "full", "--data", "performers:colour=red", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--start" in result.output
    assert "there is no setting 'colour'" in result.output
    assert not (tmp_path / "out").exists()
