"""The stage ``render`` on a painted job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.problems import ModelError
from schemas.tables import FOREGROUND_BLOCKS
from stages.blocks import expand_grid
from stages.contract import Chunk, Scope
from stages.portrait import rounded_top
from stages.render import CHANGE, Render, changed_region, ring_mask, ring_statistics
from stages.renderer import Generated
from stages.video.crops import extract_crop
from stages.video.decode import open_clip
from storage.tables import array
from tests.stages.painted_heads import FACE_LABEL, HAIR_LABEL, SIZE, scene
from tests.stages.swap_artifacts import CROP, painted_job

WHOLE = Chunk(0, 0, 0, 6)


def test_writes_a_crop_and_a_row_for_every_frame(tmp_path: Path) -> None:
    job = painted_job(tmp_path)
    rendered = job.render(WHOLE)
    crops, table = rendered.pictures("crops"), rendered.table("rendered")
    assert crops.frames == list(range(6))
    assert crops.read(3).shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(array(table, "frame"), np.arange(6))
    assert array(table, "generated").all()


def test_the_region_holds_the_old_head_and_every_change_with_room_to_spare(tmp_path: Path) -> None:
    job = painted_job(tmp_path, count=2)
    rendered = job.render(Chunk(0, 0, 0, 2))
    with open_clip(job.target) as clip:
        own = [extract_crop(clip.read(frame), CROP, SIZE) for frame in range(2)]
    regions = array(rendered.table("rendered"), "region").reshape(-1, FOREGROUND_BLOCKS, FOREGROUND_BLOCKS).astype(bool)
    for frame, region in enumerate(regions):
        outside = ~expand_grid(region, SIZE)
        assert not np.isin(job.scenes[frame].labels[outside], (HAIR_LABEL, FACE_LABEL)).any()
        crop = rendered.pictures("crops").read(frame)
        assert np.abs(crop[outside].astype(int) - own[frame][outside]).max() <= CHANGE
        assert not region.all()


def test_chunks_do_not_change_the_pictures(tmp_path: Path) -> None:
    job = painted_job(tmp_path)
    whole = job.render(WHOLE)
    parts = [job.render(Chunk(0, 0, 0, 3), "parts"), job.render(Chunk(1, 0, 3, 6), "parts")]
    for frame in range(6):
        first, second = whole.pictures("crops"), parts[frame // 3].pictures("crops")
        np.testing.assert_array_equal(first.read(frame), second.read(frame))
    joined = np.concatenate([array(part.table("rendered"), "region") for part in parts])
    np.testing.assert_array_equal(joined, array(whole.table("rendered"), "region"))


def test_a_frame_without_a_face_is_the_targets_own(tmp_path: Path) -> None:
    job = painted_job(tmp_path, missing=(2,))
    rendered = job.render(WHOLE)
    table = rendered.table("rendered")
    np.testing.assert_array_equal(array(table, "generated"), [True, True, False, True, True, True])
    assert not array(table, "region").reshape(6, -1)[2].any()
    assert np.isnan(array(table, "target_statistics")[2]).all()
    crop = rendered.pictures("crops").read(2).astype(int)
    assert np.abs(crop - job.scenes[2].picture).mean() < 3


def test_a_chunk_without_any_face_needs_no_source(tmp_path: Path) -> None:
    job = painted_job(tmp_path, missing=(0, 1, 2, 3, 4, 5))
    job.source.unlink()
    rendered = job.render(WHOLE)
    assert not array(rendered.table("rendered"), "generated").any()


def test_diffusion_without_weights_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="or use --renderer warp"):
        painted_job(tmp_path, count=2).render(Chunk(0, 0, 0, 2), renderer="diffusion")


def test_the_ring_lies_outside_the_region_and_says_what_is_there() -> None:
    region = np.zeros((16, 16), bool)
    region[5:9, 5:9] = True
    ring = ring_mask(region, SIZE)
    assert not (ring & expand_grid(region, SIZE // 4)).any()
    picture = np.full((SIZE, SIZE, 3), 90, np.uint8)
    found = ring_statistics(picture, ring)
    np.testing.assert_allclose(found[1:], [128, 128, 0, 0, 0], atol=1)
    assert np.isnan(ring_statistics(picture, np.zeros_like(ring))).all()


def test_an_untouched_picture_has_a_region_only_where_the_old_head_was() -> None:
    target = scene()
    nothing = Generated(0, target.picture.copy(), np.zeros((SIZE, SIZE), np.float32))
    region = expand_grid(changed_region(target, nothing), SIZE)
    head = np.isin(target.labels, (HAIR_LABEL, FACE_LABEL))
    assert region[head].all()
    assert not region[-20:].any()


def test_hair_cut_by_the_border_gets_a_round_top() -> None:
    matte = np.zeros((200, 200), np.float32)
    matte[:120, 40:160] = 1
    share = rounded_top(matte, -10.0)
    assert share[3, 100] > 0.5
    assert share[3, 42] == 0
    assert share[60, 42] == 1
    whole = np.zeros((200, 200), np.float32)
    whole[60:120, 40:160] = 1
    assert (rounded_top(whole, 0.0) == 1).all()


def test_declares_what_it_reads() -> None:
    assert Render.scope is Scope.JOB_CHUNK
    assert {(needed.stage, needed.of) for needed in Render.inputs} >= {("retarget", "job"), ("inpaint", "target")}
