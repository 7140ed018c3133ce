"""The files of the ICT-FaceKit become the file that performers are rendered from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli import app
from schemas.problems import UsageError
from stages.networks.model_entries import KNOWN
from stages.performers.head import HIDDEN, HeadModel
from stages.performers.packing import MULTIPIE, packed

VERTICES = max(MULTIPIE) + 1


def written(folder: Path, name: str, moved: float = 0.0) -> None:
    """A strip of vertices with a square and a triangle of two materials, as the toolkit's files look."""
    lines = ["# a comment", "mtllib some.mtl"]
    lines += [f"v {0.5 * number + moved} {-number} {number / 4}" for number in range(VERTICES)]
    lines += ["vt 0.25 0.5", "vt 0.75 0.5", "vt 0.5 1", "vt 0.1 0.2"]
    lines += [f"usemtl {material}\nf 1/1 2/2 3/3" for material in HIDDEN]
    lines += ["usemtl M_Teeth", "f 4/4/1 3/3/1 2/2/1 1/1/1", "usemtl M_Face", "f 5/1 6/2 7/3"]
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    folder = tmp_path / "kit" / "FaceXModel"
    folder.mkdir(parents=True)
    written(folder, "generic_neutral_mesh.obj")
    for number in range(3):
        written(folder, f"identity{number:03d}.obj", 0.25 * (number + 1))
    written(folder, "jawOpen.obj", 2.0)
    written(folder, "browDown_L.obj", -1.0)
    return tmp_path / "kit"


def test_a_packed_kit_is_the_head_model(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "ict.npz").write_bytes(packed(kit))
    (entry,) = [entry for entry in KNOWN if entry.name == "ict"]
    with np.load(tmp_path / "ict.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == set(entry.arrays)
        assert arrays["triangles"].tolist() == [*[[0, 1, 2]] * 3, [3, 2, 1], [3, 1, 0], [4, 5, 6]]
        assert arrays["triangle_uv"].tolist() == [*[[0, 1, 2]] * 3, [3, 2, 1], [3, 1, 0], [0, 1, 2]]
        assert [str(arrays["materials"][number]) for number in arrays["triangle_material"][3:]] == [
            "M_Teeth",
            "M_Teeth",
            "M_Face",
        ]
    model = HeadModel.load(tmp_path / "ict.npz")
    assert model.neutral.shape == (VERTICES, 3)
    np.testing.assert_allclose(model.neutral[3], [1.5, -3, 0.75])
    np.testing.assert_array_equal(model.identity[:, 7], [[0.25, 0, 0], [0.5, 0, 0], [0.75, 0, 0]])
    assert model.expression_names == ("browDown_L", "jawOpen")
    np.testing.assert_array_equal(model.expression[:, 7], [[-1, 0, 0], [2, 0, 0]])
    assert len(model.triangles) == 3
    assert packed(kit / "FaceXModel") == (tmp_path / "ict.npz").read_bytes()


def test_the_command_writes_what_can_be_registered_or_says_why_not(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSWAP_MODELS", str(tmp_path / "models"))

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["models", *arguments])

    out = tmp_path / "new" / "ict.npz"
    packing = call("pack-ict", str(kit), str(out))
    assert packing.exit_code == 0
    assert f"headswap models add ict {out}" in packing.stdout
    refused = call("add", "ict", str(out))
    assert refused.exit_code == 1, "made-up files are not those on record"
    assert call("add", "ict", str(out), "--allow-unknown-digest").exit_code == 0
    (tmp_path / "file").write_text("no folder")
    nowhere = call("pack-ict", str(kit), str(tmp_path / "file" / "ict.npz"))
    assert nowhere.exit_code == 2
    assert "cannot be written" in nowhere.output.replace("\n", " ")


def test_what_is_no_kit_is_refused_and_named(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not hold generic_neutral_mesh\.obj"):
        packed(tmp_path)
    jaw = kit / "FaceXModel" / "jawOpen.obj"
    text = jaw.read_text()
    for bad, said in (
        (text.replace("v 2.5 ", "v half ", 1), r"jawOpen\.obj is no Wavefront file"),
        (text.replace("v 2.5 ", "v nan ", 1), r"jawOpen\.obj is no Wavefront file"),
        ("\n".join(text.splitlines()[3:]), r"jawOpen\.obj has \d+ vertices"),
        ("", r"jawOpen\.obj is no Wavefront file"),
        (text.replace("v 2.5 ", "v 1e30 ", 1), r"jawOpen\.obj moves vertices by more"),
    ):
        jaw.write_text(bad)
        with pytest.raises(UsageError, match=said):
            packed(kit)
    jaw.write_text(text)
    neutral = kit / "FaceXModel" / "generic_neutral_mesh.obj"
    for bad in (
        text.replace("f 5/1", "f -1/1"),
        text.replace("f 5/1", "f 99999/1"),
        text.replace("f 5/1", "f 5"),
        text.replace("f 5/1", f"f {10**11}/1"),
        text.replace("f 5/1", "f 5/9"),
        text.replace(f"usemtl {HIDDEN[0]}", "usemtl M_Other"),
        text + "\n".join(f"usemtl M_{number}\nf 1/1 2/2 3/3" for number in range(200)),
    ):
        neutral.write_text(bad)
        with pytest.raises(UsageError, match=r"generic_neutral_mesh\.obj"):
            packed(kit)
