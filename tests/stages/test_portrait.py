"""The source's head as it is read for the renderers: upright, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.problems import SubjectError
from schemas.tables import neutral_table
from stages.contract import Inputs, Work
from stages.face3d.fitting import rotation_from_euler
from stages.portrait import read_portrait
from stages.render import Render
from storage.artifacts import ArtifactWriter
from storage.tables import array
from tests.stages.swap_artifacts import EXPRESSIONS, painted_job


def work_with_roll(folder: Path, roll: float) -> Work:
    """Work on a painted job whose source's face is tilted by so many degrees, as the table ``neutral`` has it."""
    job = painted_job(folder, count=1)
    (made,) = job.artifacts["retarget", "job"]
    table = made.table("neutral")
    columns = {name: array(table, name) for name in table.column_names}
    columns["rotation"] = rotation_from_euler([[4.0, -6.0, roll]]).reshape(1, 9).astype(np.float32)
    writer = ArtifactWriter(folder / "tilted")
    writer.write_table(neutral_table(EXPRESSIONS), columns)
    artifacts = {**job.artifacts, ("retarget", "job"): [writer.local()]}
    media = {"source": job.source, "target": job.target}
    return Work(Render.parameters(), ArtifactWriter(folder / "out"), Inputs(artifacts), media)


@pytest.mark.parametrize(("roll", "how"), [(180, "stands on its head"), (-90, "lies on its side"), (70, "lies on its side")])
def test_a_face_that_is_not_upright_is_refused_by_its_files_name_with_a_remedy(tmp_path: Path, roll: float, how: str) -> None:
    with pytest.raises(SubjectError) as caught:
        read_portrait(work_with_roll(tmp_path, roll))
    assert caught.value.code == "portrait_turned"
    assert caught.value.message == f"The face in source.png {how}."
    assert "upright" in caught.value.remedy
    assert not caught.value.retryable


@pytest.mark.parametrize("roll", [0, 50, -50])
def test_a_head_that_is_only_tilted_is_read(tmp_path: Path, roll: float) -> None:
    assert read_portrait(work_with_roll(tmp_path, roll)).matte.max() > 0.9
