"""What is left of an addition to the folder of models that is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.networks.additions import clear_away, replace_folder, workplace
from stages.networks.files import sha256_of
from stages.networks.registered import Registration
from stages.networks.registry import ModelRegistry


def _make(place: Path, content: str) -> Path:
    made = place / "renderer"
    made.mkdir()
    (made / "weights").write_text(content)
    return made


def _stopped_at_work(models: Path, ready: Callable[[], None]) -> None:
    with workplace(models, "renderer") as place:
        _make(place, "half of it")
        ready()
        signal.pause()


def _stopped_between_the_steps(models: Path, ready: Callable[[], None]) -> None:
    def stop(*_: object) -> None:
        ready()
        signal.pause()

    with workplace(models, "renderer") as place:
        made = _make(place, "new")
        rename, os.replace = os.replace, lambda one, other: stop() if one == made else rename(one, other)
        replace_folder(made, models, "renderer", place)


def _killed(models: Path, work: Callable[[Path, Callable[[], None]], None], meanwhile: Callable[[], None] = lambda: None) -> None:
    context = multiprocessing.get_context("fork")
    at_work = context.Event()
    process = context.Process(target=work, args=(models, at_work.set))
    process.start()
    assert at_work.wait(20)
    meanwhile()
    process.kill()
    process.join()


def _folders(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    with workplace(folder, "renderer") as place:
        replace_folder(_make(place, "old"), folder, "renderer", place)
    return folder


def test_what_a_killed_addition_left_is_removed_by_the_next(models: Path) -> None:
    _killed(models, _stopped_at_work)
    assert len(_folders(models)) == 2
    with workplace(models, "other"):
        assert [name.split("-")[1] for name in _folders(models) if name.startswith(".")] == ["other"]
    assert _folders(models) == ["renderer"]


def test_an_addition_under_way_is_left_alone(models: Path) -> None:
    def meanwhile() -> None:
        with workplace(models, "other"):
            assert len(_folders(models)) == 3

    _killed(models, _stopped_at_work, meanwhile)


def test_a_model_moved_aside_for_one_that_never_came_is_put_back(models: Path) -> None:
    _killed(models, _stopped_between_the_steps, lambda: _assert_moved_aside(models))
    with workplace(models, "other"):
        pass
    assert _folders(models) == ["renderer"]
    assert (models / "renderer" / "weights").read_text() == "old"


def test_listing_and_verifying_models_clear_away_too(models: Path) -> None:
    for look in (ModelRegistry.list, ModelRegistry.verify):
        _killed(models, _stopped_at_work)
        registry = ModelRegistry(models)
        assert registry.path("lama") is None
        assert len(_folders(models)) == 2, "asking for a path looks for nothing else"
        look(registry)
        assert _folders(models) == ["renderer"]


def test_listing_leaves_an_addition_under_way_alone(models: Path) -> None:
    def meanwhile() -> None:
        ModelRegistry(models).list()
        assert len(_folders(models)) == 2

    _killed(models, _stopped_at_work, meanwhile)


def test_listing_brings_back_a_pipeline_that_was_moved_aside(models: Path) -> None:
    weights = models / "renderer" / "weights"
    digests = {"weights": sha256_of(weights)}
    Registration("renderer", "MIT", True, "", "headswap", "tiny", 64, True, "0" * 40, digests).write(models / "renderer")
    _killed(models, _stopped_between_the_steps)
    registry = ModelRegistry(models)
    assert "renderer" not in registry.pipelines
    assert [status.state for status in registry.list() if status.name == "renderer"] == ["present"]
    assert registry.path("renderer") == models / "renderer"


def test_nothing_is_cleared_away_where_the_folder_cannot_be_written_or_is_not_there(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not clear_away(models / "nowhere")
    assert not clear_away(models), "nothing is left"
    _killed(models, _stopped_at_work)
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: False)
        assert not clear_away(models)
    with monkeypatch.context() as patched:
        patched.setattr("fcntl.flock", _no_locks)
        assert not clear_away(models)
    assert len(_folders(models)) == 2
    assert clear_away(models)
    assert _folders(models) == ["renderer"]


def _no_locks(*_: object) -> None:
    raise OSError("no locks available")


def _assert_moved_aside(models: Path) -> None:
    assert not (models / "renderer").exists()


def test_a_replacement_that_fails_leaves_the_model_as_it_was(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def fail(one: Path, other: Path) -> None:
        if one.parent.name.startswith(".adding"):
            raise OSError("no space left on device")
        rename(one, other)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"), workplace(models, "renderer") as place:
        replace_folder(_make(place, "new"), models, "renderer", place)
    assert _folders(models) == ["renderer"]
    assert (models / "renderer" / "weights").read_text() == "old"
