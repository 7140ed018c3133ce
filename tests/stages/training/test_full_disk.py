"""A disk that is full while a run is trained on it: told in words, and nothing lost."""

from __future__ import annotations

import errno
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from schemas.problems import StoreError
from stages.training.checkpoints import STATE, Checkpoints
from stages.training.run import Order, _telling_of_a_full_disk, train
from tests.disks import grow, mounted
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.saved_weights import same, weights_of
from tests.stages.training.tiny_recipes import tiny_recipe


def order_of(out: Path) -> Order:
    return Order(tiny_recipe(), out, Discs(), Discs(seed=1), "discs", device="cpu")


def test_a_run_on_a_full_disk_says_so_and_goes_on_to_the_bit_with_more_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "20k") as disk:
        out = disk / "run"
        # Before the first step, in the first checkpoint, in the log or a pipeline, in a later checkpoint.
        for size in ("20k", "300k", "1m", "4m", "9m"):
            grow(disk, size)
            with pytest.raises(StoreError) as caught:
                train(order_of(out), resume=True)
            assert caught.value.code == "disk_full"
            assert str(out) in caught.value.message
            assert "--resume" in caught.value.remedy
            assert list(out.rglob(".*.partial")) == []
        grow(disk, "64m")
        went_on = weights_of(train(order_of(out), resume=True))
    assert same(went_on, weights_of(train(order_of(tmp_path / "undisturbed"))))


def test_the_file_is_named_that_there_is_no_room_for(tmp_path: Path) -> None:
    link = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "from"), None, "/full/to")
    with pytest.raises(StoreError, match="No space is left on the disk of /full/to"), _telling_of_a_full_disk(tmp_path):
        raise link


def test_a_phase_that_is_finished_leaves_its_last_checkpoint(tmp_path: Path) -> None:
    train(order_of(tmp_path / "run"))
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").glob("*/*"))] == ["00000002"] * 3


def test_room_for_checkpoints_is_looked_for_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=25 << 20))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints" / "motion", keep=2)
    with pytest.raises(StoreError, match="25 MiB left, and a checkpoint takes 26 MiB") as caught:
        checkpoints.look_for_room(26 << 20, saves=1)
    assert caught.value.code == "disk_full"
    checkpoints.look_for_room(26 << 20, saves=0)  # all steps are done
    with caplog.at_level(logging.WARNING):
        checkpoints.look_for_room(12 << 20, saves=2)
        assert not caplog.records
        checkpoints.look_for_room(12 << 20, saves=9)  # two are kept while a third is written
        assert "up to 3 more" in caplog.text
        caplog.clear()
        for step in (1, 2):  # a run that goes on has some of them already
            checkpoints.path(step).mkdir(parents=True)
            (checkpoints.path(step) / STATE).write_text("{}")
        checkpoints.look_for_room(12 << 20, saves=9)
        assert not caplog.records
