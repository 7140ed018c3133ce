"""The stage ``render`` on a painted job."""

from __future__ import annotations

from dataclasses import replace
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
from stages.scenes import LitScene, _inside, _lit
from stages.video.crops import extract_crop
from stages.video.decode import open_clip
from storage.tables import array
from tests.media import write_video
from tests.stages.painted_heads import FACE_LABEL, HAIR_LABEL, SIZE, scene
from tests.stages.swap_artifacts import CROP, Job, frame_of, painted_job

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


def _faded(job: Job, gains: list[float]) -> Job:
    """The job with a target whose frames are as bright as that."""
    pictures = [np.rint(frame_of(one.picture) * gain).astype(np.uint8) for one, gain in zip(job.scenes, gains, strict=True)]
    write_video(job.target, pictures, options={"crf": "4"}, pixel_format="yuv420p")
    return job


def test_in_a_dark_frame_head_and_background_are_as_dark(tmp_path: Path) -> None:
    gains = [1.0] * 12
    gains[3], gains[8], gains[10], gains[11] = 0.7, 0.3, 0.2, 0.1  # the source's colours are matched to none of these
    whole, faded = Chunk(0, 0, 0, 12), (3, 8, 10, 11)
    plain, dimmed = (painted_job(tmp_path / name, 12, faded=faded) for name in ("plain", "dimmed"))
    _faded(dimmed, gains)
    bright, dark = plain.render(whole).pictures("crops"), dimmed.render(whole).pictures("crops")
    for frame in (3, 8):
        labels = dimmed.scenes[frame].labels
        error = np.abs(dark.read(frame) - bright.read(frame) * gains[frame]).mean(2)
        assert error[np.isin(labels, (HAIR_LABEL, FACE_LABEL))].mean() < 3
        assert np.percentile(error[labels == 0], 99) < 8
        with open_clip(dimmed.target) as clip:
            own = extract_crop(clip.read(frame), CROP, SIZE)
        assert (dark.read(frame)[-40:, :40] == own[-40:, :40]).all()  # what is not generated stays bit for bit
    assert np.abs(dark.read(5).astype(int) - bright.read(5)).mean() < 2


def test_chunks_do_not_change_the_pictures_of_a_fade(tmp_path: Path) -> None:
    job = _faded(painted_job(tmp_path), [1.0, 1.0, 1.0, 0.9, 0.6, 0.3])
    whole, last = job.render(WHOLE), job.render(Chunk(1, 0, 3, 6), "parts")
    for frame in range(3, 6):
        np.testing.assert_array_equal(whole.pictures("crops").read(frame), last.pictures("crops").read(frame))


def test_what_is_beyond_the_picture_does_not_tell_its_light() -> None:
    """A crop that reaches beyond it repeats its border, which the plate does with another."""
    inside = _inside(np.array([100.0, 40.0, 100.0]), 50, 160, 120)
    assert not inside[:5].any()
    assert inside[5:].all()
    target = scene()
    beyond = replace(target, picture=target.picture.copy())
    beyond.picture[:200] = beyond.picture[:200] // 3
    below = np.zeros((SIZE // 4, SIZE // 4), bool)
    below[52:] = True
    assert _lit(beyond, below) is beyond
    assert _lit(target, np.ones_like(below)) is target
    assert isinstance(_lit(beyond, ~below), LitScene)


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
