"""Which GPUs a run gets, and that it is refused before it begins where one cannot be used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from flows.devices import devices_of
from flows.planning import Planner
from schemas.configuration import load_settings
from schemas.parameters import DiffusionParameters, RenderParameters
from schemas.problems import UsageError


def planner(device: str, renderer: str = "diffusion") -> Planner:
    """As much of one as is asked for devices: a job that renders."""
    node = SimpleNamespace(owner="job", stage="render")
    parameters = RenderParameters(renderer=cast(Any, renderer), diffusion=DiffusionParameters(model="tiny"))
    made = SimpleNamespace(
        settings=load_settings({"device": device}),
        jobs={"job": SimpleNamespace(nodes=[node])},
        parameters=lambda node: parameters,
    )
    return cast(Planner, made)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=8))


@pytest.mark.usefixtures("two_gpus")
def test_all_gpus_are_taken_or_those_that_are_named_once_each() -> None:
    assert devices_of(planner("auto")) == ("cuda:0", "cuda:1")
    assert devices_of(planner("cuda:1,cuda:1")) == ("cuda:1",)
    assert devices_of(planner("cuda")) == ("cuda:0",)
    assert devices_of(planner("cpu")) == ()
    assert devices_of(planner("auto", renderer="warp")) == ()


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_cuda_cannot_use_are_refused_where_they_are_named_and_else_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    assert devices_of(planner("auto")) == ()
    with pytest.raises(UsageError, match="driver on your system is too old") as caught:
        devices_of(planner("cuda:0,cuda:1"))
    assert len(caught.value.problems) == 2


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_does_not_answer_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: torch.device) -> None:
        raise RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment")

    monkeypatch.setattr(torch.cuda, "get_device_properties", lost)
    with pytest.raises(UsageError, match="cuda:0 does not answer: CUDA unknown error"):
        devices_of(planner("auto"))
