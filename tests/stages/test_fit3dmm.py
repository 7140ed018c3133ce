"""One identity per clip, a pose and an expression per detected frame."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from schemas.parameters import FitParameters
from stages.face3d.fitting import euler_angles, fit_frames
from stages.face3d.model import FaceModel
from stages.fit3dmm import Fit3dmm
from storage.tables import array
from tests.made_up_faces import Performer, inputs, run, subject

MODEL = FaceModel.builtin()
COUNT = 60


def performer() -> Performer:
    return Performer(
        7,
        [frame for frame in range(COUNT) if frame not in (20, 21)],
        turns={frame: (frame - 30.0, 5.0, 0.0) for frame in range(COUNT)},
        expressions={frame: {"jawOpen": 0.8} for frame in range(40, 50)},
        noise=0.003,
    )


def test_pose_and_expression_of_every_detected_frame(tmp_path):
    artifact = run(Fit3dmm(), tmp_path / "fit", inputs=inputs(clip_track=subject(tmp_path / "track", performer(), COUNT)))
    table = artifact.table("fit")
    detected = array(table, "detected")
    assert np.flatnonzero(~detected).tolist() == [20, 21]
    assert np.isnan(array(table, "rotation")[20]).all()
    angles = euler_angles(array(table, "rotation")[detected].reshape(-1, 3, 3))
    np.testing.assert_allclose(angles[:, 0], np.arange(COUNT)[detected] - 30.0, atol=2.0)
    jaw = array(table, "expression")[:, MODEL.indices("jawOpen")[0]]
    assert jaw[42:48].min() > 0.5 > 0.3 > np.nanmax(jaw[:38])
    assert artifact.facts["frames_fitted"] == COUNT - 2
    assert artifact.facts["residual_median"] < 0.02
    assert int(array(artifact.table("identity"), "frames_used")[0]) == COUNT - 2


def test_the_heads_own_turn_is_kept_beside_the_pose_that_explains_the_landmarks(tmp_path):
    given = inputs(clip_track=subject(tmp_path / "track", performer(), COUNT))
    artifact = run(Fit3dmm(), tmp_path / "fit", FitParameters(smoothing_frames=0.0), inputs=given)
    table, track = artifact.table("fit"), given.table("track", "subject", "clip")
    detected = array(table, "detected")
    landmarks = array(track, "landmarks")[detected].reshape(-1, 478, 3)
    fit = fit_frames(landmarks, MODEL, array(artifact.table("identity"), "coefficients")[0])
    held = array(table, "head_rotation").reshape(-1, 3, 3)
    np.testing.assert_allclose(held[detected], fit.rotation, atol=1e-4)
    assert np.isnan(held[~detected]).all()
    assert not np.allclose(held[detected], array(table, "rotation")[detected].reshape(-1, 3, 3), atol=1e-3)


def test_identity_comes_from_at_most_the_frames_asked_for(tmp_path):
    given = inputs(clip_track=subject(tmp_path / "track", performer(), COUNT))
    artifact = run(Fit3dmm(), tmp_path / "fit", FitParameters(identity_frames=8), inputs=given)
    assert int(array(artifact.table("identity"), "frames_used")[0]) == 8


def test_a_still_picture_is_a_clip_of_one_frame(tmp_path):
    artifact = run(Fit3dmm(), tmp_path / "fit", inputs=inputs(clip_track=subject(tmp_path / "track", Performer(3, [0]), 1)))
    assert artifact.facts["frames_fitted"] == 1


def test_smoothing_takes_tremor_and_leaves_the_rest(tmp_path):
    given = inputs(clip_track=subject(tmp_path / "track", performer(), COUNT))
    raw = run(Fit3dmm(), tmp_path / "raw", inputs=given).table("fit")
    calm = run(Fit3dmm(), tmp_path / "calm", FitParameters(smoothing_frames=1.0), inputs=given).table("fit")

    def tremor(table: pa.Table) -> float:
        return float(np.nanstd(np.diff(array(table, "translation")[25:38, :2], 2, axis=0)))

    assert tremor(calm) <= tremor(raw)
    jaw = MODEL.indices("jawOpen")[0]
    np.testing.assert_allclose(array(calm, "expression")[44, jaw], array(raw, "expression")[44, jaw], atol=0.08)


def test_frames_before_and_after_a_loss_of_the_face_are_not_mixed(tmp_path):
    before, after = list(range(20)), list(range(50, 70))
    both = Performer(
        7, before + after, turns={frame: (20.0 if frame >= 50 else -20.0, 0.0, 0.0) for frame in range(70)}, noise=0.003
    )
    alone = Performer(7, before, turns=dict.fromkeys(range(70), (-20.0, 0.0, 0.0)), noise=0.003)
    fits = []
    for name, person in (("both", both), ("alone", alone)):
        track = subject(tmp_path / name / "track", person, 70)
        fits.append(run(Fit3dmm(), tmp_path / name / "fit", FitParameters(smoothing_frames=1.0), inputs=inputs(clip_track=track)))
    turned = [euler_angles(array(fit.table("fit"), "rotation")[19].reshape(1, 3, 3).astype(float))[0, 0] for fit in fits]
    assert abs(turned[0] - turned[1]) < 1.0
