"""Recipes are read with all their problems at once; those that ship are in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.parameters import DiffusionParameters
from schemas.problems import UsageError
from stages.training.loop import learning_rate
from stages.training.recipe import Recipe, settled
from stages.training.recipe_files import builtin_recipe, chosen_recipe, read_recipe
from stages.training.run import recipe_text
from tests.stages.training.tiny_recipes import tiny_recipe


@pytest.mark.parametrize(("name", "preset"), [("demo", "demo"), ("demo-many", "demo"), ("full", "full")])
def test_shipped_recipes_are_in_order_and_end_with_motion(name: str, preset: str) -> None:
    recipe = builtin_recipe(name)
    assert (recipe.name, recipe.preset) == (name, preset)
    assert DiffusionParameters.wanted_by_a_pipeline(recipe.sampling) == recipe.sampling
    assert recipe.phases[-1].trains == ("motion_modules",)  # type: ignore[union-attr]


def test_a_recipe_is_a_file_or_the_name_of_one_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert chosen_recipe(None, "demo") == builtin_recipe("demo")
    assert chosen_recipe(Path("demo-many"), "demo") == builtin_recipe("demo-many")
    (tmp_path / "demo").mkdir()
    assert chosen_recipe(Path("demo"), "full") == builtin_recipe("demo")
    (tmp_path / "demo-many").write_text(recipe_text(tiny_recipe()))
    assert chosen_recipe(Path("demo-many"), "demo") == tiny_recipe()
    with pytest.raises(UsageError, match="There is no recipe demo-mny") as caught:
        chosen_recipe(Path("demo-mny"), "demo")
    assert "demo, demo-many, full" in caught.value.remedy
    with pytest.raises(UsageError, match="There is no recipe xxx"):
        chosen_recipe(Path("x" * 300), "demo")


def test_a_recipe_survives_being_written(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(tiny_recipe()))
    assert read_recipe(tmp_path / "recipe.yaml") == tiny_recipe()


def test_the_result_is_sampled_with_noise_as_it_was_trained_with() -> None:
    recipe = tiny_recipe()
    *before, motion = recipe.phases
    assert recipe.sampling["shared_noise"] == 0  # said, so that nothing else is inherited from first weights
    shared = recipe.model_copy(update={"phases": (*before, motion.model_copy(update={"shared_noise": 0.5}))})
    assert shared.sampling == {**recipe.sampling, "shared_noise": 0.5}
    assert "shared_noise" not in recipe.model_copy(update={"phases": tuple(before)}).sampling


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    content = yaml.safe_load(recipe_text(tiny_recipe()))
    content["phases"][0]["crop"] = 33
    content["phases"][1]["optimisation"]["learning_rate"] = -1
    content["phases"][1]["optimisation"]["lerning"] = 2
    del content["phases"][2]["batch"]
    content["seed"] = "many"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError) as caught:
        read_recipe(path)
    told = "\n".join(caught.value.problems)
    places = (
        "autoencoder.crop",
        "single-frames.optimisation.learning_rate",
        "single-frames.optimisation.lerning",
        "motion.batch",
    )
    for place in (*(f"phases.{place}" for place in places), "seed"):
        assert f"{path}: {place}: " in told
    assert len(caught.value.problems) == 5


def problems_of(path: Path, change: Callable[[Any], object]) -> list[str]:
    """What is told of a recipe that was changed so, without the file's name, which is always told."""
    content = yaml.safe_load(recipe_text(tiny_recipe()))
    change(content)
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError) as caught:
        read_recipe(path)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def renamed(place: dict[str, Any], name: str, wrong: str, value: object = None) -> None:
    before = place.pop(name)
    place[wrong] = before if value is None else value


def test_a_misspelt_name_is_one_problem_with_the_name_that_was_meant(tmp_path: Path) -> None:
    def change(content: Any) -> None:
        renamed(content["phases"][1], "head", "hea")

    assert problems_of(tmp_path / "recipe.yaml", change) == [
        "phases.single-frames.hea: there is no such field; did you mean 'head'?"
    ]


def test_what_stands_under_a_misspelt_name_is_read_all_the_same(tmp_path: Path) -> None:
    def change(content: Any) -> None:
        phase = content["phases"][2]
        renamed(phase["optimisation"], "learning_rate", "lerning_rate", -1)
        renamed(phase, "optimisation", "optimisaton")
        renamed(phase, "kind", "kind", "difusion")
        renamed(content["phases"][0], "kind", "knd")

    assert problems_of(tmp_path / "recipe.yaml", change) == [
        "phases.autoencoder.knd: there is no such field; did you mean 'kind'?",
        "phases.motion.kind: 'difusion' is not permitted; did you mean 'diffusion'?",
        "phases.motion.optimisaton: there is no such field; did you mean 'optimisation'?",
        "phases.motion.optimisation.lerning_rate: there is no such field; did you mean 'learning_rate'?",
        "phases.motion.optimisation.learning_rate: must be greater than 0, not -1.",
    ]


def test_a_misspelt_name_that_phases_share_by_an_anchor_is_told_of_each(tmp_path: Path) -> None:
    text = recipe_text(tiny_recipe())
    content = yaml.safe_load(text)
    shared = content["phases"][0]["keeping"]
    renamed(shared, "save_every", "save_evry")
    for phase in content["phases"]:
        phase["keeping"] = shared
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    assert "&id001" in path.read_text()
    with pytest.raises(UsageError) as caught:
        read_recipe(path)
    assert list(caught.value.problems) == [
        f"{path}: phases.{phase['name']}.keeping.save_evry: there is no such field; did you mean 'save_every'?"
        for phase in content["phases"]
    ]


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("seed",), "many", "seed: must be a whole number, not 'many'."),
        (("seed",), None, "seed: must be a whole number, not nothing."),
        (("preset",), "dmo", "preset: 'dmo' is not permitted; did you mean 'demo'?"),
        (("validation_guidance",), 80, "validation_guidance: must be 50 or less, not 80."),
        (("sead",), 1, "sead: there is no such field; did you mean 'seed'?"),
        ((3,), 1, "3: there is no such field; known are name, phases, "),
        (("phases",), [], "phases: must be a list of 1 or more, not a list of 0."),
        (("phases",), "none", "phases: must be a list, not 'none'."),
        (("phases", 2), "none", "phases.3: must be names and values, not 'none'."),
        (("phases", 2, "kind"), "film", "phases.motion.kind: 'film' is not permitted; known are autoencoder, diffusion."),
        (
            ("phases", 2, "trains"),
            ["motion"],
            "phases.motion.trains.1: 'motion' is not permitted; did you mean 'motion_modules'?",
        ),
        (("phases", 2, "frames"), 1, "phases.motion: motion modules need windows of two frames or more."),
        (("phases", 2, "size"), 33, "phases.motion.size: must be a multiple of 32, not 33."),
        (("phases", 2, "name"), "The Last", "phases.3.name: must be small letters, digits and -, not 'The Last'."),
        (("phases", 2, "name"), "autoencoder", "two phases have one name."),
        (("phases", 2, "optimisation"), 3, "phases.motion.optimisation: must be names and values, not 3."),
        (("phases", 2, "optimisation", "betas"), [0.9], "phases.motion.optimisation.betas.2: must be given."),
        (
            ("phases", 2, "optimisation", "eight_bit"),
            "si",
            "phases.motion.optimisation.eight_bit: must be true or false, not 'si'.",
        ),
    ],
)
def test_what_is_wrong_is_told_in_plain_words(tmp_path: Path, place: Any, value: object, told: str) -> None:
    def change(content: Any) -> None:
        *path, last = place
        for part in path:
            content = content[part]
        content[last] = value

    (problem,) = problems_of(tmp_path / "recipe.yaml", change)
    assert problem.startswith(told)


@pytest.mark.parametrize(("text", "told"), [("[1]", "a list of 1"), ("", "nothing"), ("demo", "'demo'")])
def test_a_file_that_holds_no_names_and_values_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match=f": must be names and values, not {told}."):
        read_recipe(tmp_path / "recipe.yaml")


def test_phases_are_counted_from_one_where_they_have_no_name_of_their_own(tmp_path: Path) -> None:
    def change(content: Any) -> None:
        for number, name in enumerate(("same", "same", "2")):
            content["phases"][number]["name"] = name
            del content["phases"][number]["batch"]

    assert problems_of(tmp_path / "recipe.yaml", change) == [f"phases.{number}.batch: must be given." for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda phases: phases[1:], "begins with a phase of kind autoencoder"),
        (lambda phases: [phases[0], phases[1], {**phases[0], "name": "again"}], "cannot be trained after"),
        (lambda phases: [phases[0], phases[1], phases[1]], "two phases have one name"),
        (lambda phases: [phases[0], {**phases[1], "frames": 3}], "give frames: 1"),
        (lambda phases: [phases[0], {**phases[2], "frames": 1}], "two frames or more"),
        (lambda phases: [{**phases[0], "crop": 128}], "cannot be cut from samples"),
        (lambda phases: [*phases[:2], {**phases[2], "schedule": "linear"}], "different schedules"),
        (lambda phases: [phases[0], {**phases[1], "schedule": "cosine"}], "scaled_linear"),
        (lambda phases: [phases[0], {**phases[1], "shared_noise": 0.5}], "shares its noise with none"),
        (lambda phases: [*phases, {**phases[2], "name": "again", "shared_noise": 0.5}], "different shared_noise"),
    ],
)
def test_phases_that_make_no_sense_are_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    content = yaml.safe_load(recipe_text(tiny_recipe()))
    content["phases"] = change(content["phases"])
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=message):
        read_recipe(path)


def test_files_that_are_no_recipes_are_told(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("phases: [")
    with pytest.raises(UsageError, match="is no YAML"):
        read_recipe(tmp_path / "broken.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "missing.yaml")


def with_precisions(*precisions: str) -> Recipe:
    content = tiny_recipe().model_dump()
    for phase, precision in zip(content["phases"], precisions, strict=True):
        phase["optimisation"]["precision"] = precision
    return Recipe.model_validate(content)


def test_the_precision_is_settled_where_the_recipe_leaves_it_open() -> None:
    recipe = with_precisions("auto", "bfloat16", "float32")
    assert settled(recipe, bfloat16=True) == with_precisions("bfloat16", "bfloat16", "float32")
    assert settled(recipe, bfloat16=False) == with_precisions("float32", "bfloat16", "float32")


def test_the_recipe_for_any_machine_leaves_the_precision_to_the_machine() -> None:
    assert {phase.optimisation.precision for phase in builtin_recipe("demo").phases} == {"auto"}


def test_the_learning_rate_rises_and_falls_as_a_function_of_the_step() -> None:
    options = tiny_recipe().phases[0].optimisation.model_copy(update={"warmup": 10, "final_share": 0.1})
    rates = [learning_rate(options, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[60] == pytest.approx(1e-3 * 0.55)
    assert rates[110] == pytest.approx(1e-4)
    constant = options.model_copy(update={"decay": "constant"})
    assert learning_rate(constant, 100, 110) == 1e-3
