"""Keys of stages whose networks come with a package name its version: another version computes other artifacts."""

from __future__ import annotations

import sys
from importlib.metadata import version

from flows import pipeline
from schemas.parameters import DiffusionParameters, RenderParameters
from stages.contract import Stage
from stages.hands import HandNetwork
from stages.segmentation import PersonNetwork


def asks_mediapipe(stage: Stage) -> bool:
    """Whether the stage's module names anything that runs MediaPipe."""
    named = vars(sys.modules[type(stage).__module__]).values()
    return any(one in (HandNetwork, PersonNetwork) for one in named if isinstance(one, type)) or any(
        getattr(one, "__module__", "") == "stages.detectors" for one in named
    )


def test_stages_that_ask_mediapipe_have_its_version_in_their_keys() -> None:
    asking = {name for name in pipeline.STAGES if asks_mediapipe(pipeline.stage(name))}
    assert asking >= {"landmarks", "track", "masks", "measure"}
    for name in asking:
        stage = pipeline.stage(name)
        assert stage.data_for(stage.parameters())["mediapipe"] == version("mediapipe"), name


def test_a_render_has_it_where_the_renderer_asks_it() -> None:
    render = pipeline.stage("render")
    diffusion = RenderParameters(renderer="diffusion", diffusion=DiffusionParameters(model="tiny"))
    assert "mediapipe" in render.data_for(diffusion)
    assert "mediapipe" not in render.data_for(RenderParameters(renderer="warp"))
