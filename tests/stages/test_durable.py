"""What is written stands there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stages.durable import remove_partial, write_whole
from stages.training.loop import Metrics


def test_a_file_keeps_what_it_held_until_all_of_the_new_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_whole(file, "before")
    told: list[str] = []

    def replaced(source: Path, target: Path) -> None:
        told.append(f"{source.read_text()} for {target.read_text()}")
        raise OSError("the machine goes down")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replaced)
        with pytest.raises(OSError, match="goes down"):
            write_whole(file, "after")
        (tmp_path / "metrics.jsonl").write_text('{"phase": "a", "step": 1}\n{"phase": "a", "step": 2}\n{"pha')
        with pytest.raises(OSError, match="goes down"):
            Metrics(tmp_path / "metrics.jsonl").cut("a", 1)
    assert told[0] == "after for before"
    assert file.read_text() == "before"
    assert (tmp_path / "metrics.jsonl").read_text().count("step") == 2
    Metrics(tmp_path / "metrics.jsonl").cut("a", 1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"phase": "a", "step": 1}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "run.json"]


def test_only_what_is_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".00000003.partial" / "inner").mkdir(parents=True)
    (tmp_path / ".run.json.partial").touch()
    (tmp_path / "00000002").mkdir()
    remove_partial(tmp_path)
    remove_partial(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["00000002"]


def test_what_others_write_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".run.json.4711.partial").touch()
    (tmp_path / ".film.partial").touch()
    remove_partial(tmp_path, "run.json*")
    assert [path.name for path in tmp_path.iterdir()] == [".film.partial"]
