"""Keys of stages whose networks come with a package name its version: another version computes other artifacts."""

from __future__ import annotations

import ast
import functools
from importlib.metadata import version
from pathlib import Path

from flows import pipeline
from schemas.parameters import DiffusionParameters, RenderParameters

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {"stages.hands.HandNetwork", "stages.segmentation.PersonNetwork"}
"""What runs MediaPipe, beside all of ``stages.detectors``."""


@functools.cache
def imported(module: str) -> frozenset[str]:
    """Names that a module of the stages imports anywhere in it, in full."""
    found = set()
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found)


def path_of(module: str) -> Path:
    """The file of a module, whether there is one or not."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def asks_mediapipe(module: str, seen: set[str]) -> bool:
    """Whether a module, or one that it imports, names what runs MediaPipe."""
    seen.add(module)
    for name in imported(module):
        if name in NETWORKS or f"{name}.".startswith("stages.detectors."):
            return True
        for source in (name, name.rpartition(".")[0]):
            follow = source.startswith("stages.") and source not in seen and path_of(source).is_file()
            if follow and asks_mediapipe(source, seen):
                return True
    return False


def test_stages_that_ask_mediapipe_have_its_version_in_their_keys() -> None:
    asking = {name for name, place in pipeline.STAGES.items() if asks_mediapipe(place.partition(":")[0], set())}
    assert asking >= {"landmarks", "track", "masks", "measure", "render"}
    for name in asking - {"render"}:
        stage = pipeline.stage(name)
        assert stage.data_for(stage.parameters())["mediapipe"] == version("mediapipe"), name


def test_a_render_has_it_where_the_renderer_asks_it() -> None:
    render = pipeline.stage("render")
    diffusion = RenderParameters(renderer="diffusion", diffusion=DiffusionParameters(model="tiny"))
    assert "mediapipe" in render.data_for(diffusion)
    assert "mediapipe" not in render.data_for(RenderParameters(renderer="warp"))
