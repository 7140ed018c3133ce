"""Catalogues of performers: complete, repeatable, resumable, and readable by the tools that use them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from cli import app
from flows.performers import RenderOrder, render_performers
from flows.renders import clear_clip, is_described
from schemas.catalogue import read_catalogue
from schemas.problems import UsageError
from schemas.tables import LABELS
from stages.video.decode import open_clip
from storage.tables import array, read

ORDER = RenderOrder(count=2, frames=3, size=96, seed=4, swaps=True, stills=True)


@pytest.fixture(scope="module")
def head_model(shared: Path) -> Path:
    return shared / "models" / "ict" / "ict_facekit.npz"


@pytest.fixture(scope="module")
def rendered(head_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("performers")
    told = render_performers(head_model, folder, ORDER, workers=1)
    assert (told["clips"], told["rendered"], told["frames"]) == (2, 2, 12)
    return folder


def test_an_order_that_makes_no_sense_lists_every_problem() -> None:
    with pytest.raises(UsageError) as caught:
        RenderOrder(count=0, size=33, rate=0).check()
    assert len(caught.value.problems) == 3


def test_the_command_refuses_wrong_usage_before_it_looks_for_the_model(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["performers", "render", "--out", str(tmp_path), "--size", "33"])
    assert answer.exit_code == 2


def test_every_frame_has_its_picture_labels_alpha_and_row(rendered: Path) -> None:
    for folder in (rendered / "clips" / "0001", rendered / "clips" / "0001" / "swap"):
        truth = read(folder / "truth.parquet")
        assert truth.num_rows == 3
        with open_clip(folder / "picture.mp4") as clip:
            shown = [picture for _, picture in clip.iterate()]
        assert len(shown) == 3
        for frame in range(3):
            picture, labels, alpha = (
                cv2.imread(str(folder / name / f"{frame:06d}.png"), cv2.IMREAD_UNCHANGED)
                for name in ("pictures", "labels", "alpha")
            )
            assert picture.shape == (96, 96, 3)
            assert labels.max() < len(LABELS)
            np.testing.assert_array_equal(alpha > 128, (labels > 0) & (alpha > 128))
            close = np.abs(picture[..., ::-1].astype(int) - shown[frame])
            assert close.mean() < 6
        landmarks = array(truth, "landmarks").reshape(3, 478, 3)
        assert labels[int(landmarks[2, 1, 1]), int(landmarks[2, 1, 0])] == LABELS.index("face")


def test_the_swap_keeps_pose_and_expression(rendered: Path) -> None:
    one, other = (read(rendered / "clips" / "0000" / sub / "truth.parquet") for sub in ("", "swap"))
    for column in ("pose", "expression", "rotation", "shoulders"):
        np.testing.assert_array_equal(array(one, column), array(other, column))
    assert not np.array_equal(array(one, "landmarks"), array(other, "landmarks"))


def test_the_lists_can_be_run_and_name_files_that_are_there(rendered: Path) -> None:
    jobs = read_catalogue(rendered / "catalogue.csv").jobs
    assert [job.rights for job in jobs] == ["synthetic", "synthetic"]
    assert all(Path(job.source).is_file() and Path(job.target).is_file() for job in jobs)
    told = json.loads((rendered / "clips" / "0000" / "performer.json").read_text())
    assert len(told["expressions"]) == 57
    assert len(told["person"]["identity"]) == 40


def test_a_second_run_renders_only_what_is_missing_and_gives_the_same(rendered: Path, head_model: Path) -> None:
    before = (rendered / "clips" / "0001" / "pictures" / "000002.png").read_bytes()
    assert render_performers(head_model, rendered, ORDER, workers=1)["rendered"] == 0
    (rendered / "clips" / "0001" / "performer.json").unlink()
    assert render_performers(head_model, rendered, ORDER, workers=1)["rendered"] == 1
    assert (rendered / "clips" / "0001" / "pictures" / "000002.png").read_bytes() == before


def test_of_another_order_nothing_is_left(head_model: Path, tmp_path: Path) -> None:
    longer = RenderOrder(count=1, frames=4, size=64, swaps=True, stills=True)
    shorter = replace(longer, frames=2, swaps=False, stills=False)
    for order in (longer, shorter):
        render_performers(head_model, tmp_path / "changed", order, workers=1)
    render_performers(head_model, tmp_path / "fresh", shorter, workers=1)
    changed, fresh = (
        sorted(path.relative_to(top) for path in top.rglob("*")) for top in (tmp_path / "changed", tmp_path / "fresh")
    )
    assert changed == fresh
    assert len(list((tmp_path / "fresh/clips/0000/labels").iterdir())) == 2


def test_a_clip_whose_description_is_cut_off_is_rendered_again(rendered: Path, head_model: Path) -> None:
    description = rendered / "clips" / "0000" / "performer.json"
    whole = description.read_text()
    for broken in (whole[:100], "", "[]"):
        description.write_text(broken)
        assert not is_described(description, json.loads(whole)["recipe"])
    assert render_performers(head_model, rendered, ORDER, workers=1)["rendered"] == 1
    assert description.read_text() == whole


def test_a_clip_that_is_being_removed_never_passes_for_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = tmp_path / "0000" / "performer.json"
    description.parent.mkdir()
    description.write_text('{"recipe": "this"}')
    assert is_described(description, "this")

    def stopped(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        clear_clip(description)
    assert not is_described(description, "this")
