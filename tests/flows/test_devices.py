"""Which GPUs a run gets, and that it is refused before it begins where one cannot be used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from flows.devices import devices_of, precision_settled
from flows.planning import Planner
from schemas.catalogue import Job
from schemas.configuration import load_settings
from schemas.parameters import DiffusionParameters, RenderParameters
from schemas.problems import UsageError
from stages.networks import runtime


def planner(device: str, renderer: str = "diffusion", precision: str = "float32") -> Planner:
    """As much of one as is asked for devices: a job that renders."""
    node = SimpleNamespace(owner="job", stage="render")
    parameters = RenderParameters(renderer=cast(Any, renderer), diffusion=DiffusionParameters(model="tiny"))
    made = SimpleNamespace(
        settings=load_settings({"device": device, "stages.render.diffusion.precision": precision}),
        jobs={"job": SimpleNamespace(nodes=[node])},
        parameters=lambda node: parameters,
        notes=[],
    )
    made.note = made.notes.append
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
@pytest.mark.parametrize(("minors", "served"), [({0: 0, 1: 6}, ("cuda:1",)), ({0: 0, 1: 0}, ())])
def test_gpus_without_code_in_this_pytorch_are_left_alone_and_a_run_says_so(
    monkeypatch: pytest.MonkeyPatch, minors: dict[int, int], served: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_86"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=8, minor=minors[device.index]))
    asking = planner("auto")
    assert devices_of(asking) == served
    notes = cast(Any, asking).notes
    assert len(notes) == 2 - len(served)
    assert all("is an sm_80: it is left alone" in note for note in notes)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_does_not_answer_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: torch.device) -> None:
        raise RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment")

    monkeypatch.setattr(torch.cuda, "get_device_properties", lost)
    with pytest.raises(UsageError, match="cuda:0 does not answer: CUDA unknown error"):
        devices_of(planner("auto"))


def settled(device: str, **said: str) -> str:
    """The precision that a run on these devices computes in."""
    settings = load_settings({"device": device, "renderer": "diffusion", **said})
    found = precision_settled(settings, [Job(id="one", source="a.png", target="b.mp4", rights="mine")])
    return found.stages.render.diffusion.precision


def test_the_precision_left_to_the_devices_is_settled_as_one_that_all_of_them_have(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (settled("auto"), settled("cpu")) == ("bfloat16", "float32")
    assert settled("cpu", **{"stages.render.diffusion.precision": "bfloat16"}) == "bfloat16"  # what was said stands
    assert settled("cuda:7") == "auto"  # is not there: refused before the run, see above
    majors = {0: 8, 1: 7}
    properties = lambda device: SimpleNamespace(major=majors[torch.device(device).index or 0])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert [settled(name) for name in ("auto", "cuda:0", "cuda:1", "cuda:1,cuda:0")] == [
        "float32",
        "bfloat16",
        "float32",
        "float32",
    ]


def test_a_precision_that_was_settled_says_so_and_runs_without_diffusion_ask_no_device() -> None:
    job = Job(id="one", source="a.png", target="b.mp4", rights="mine")
    found = precision_settled(load_settings({"device": "cpu", "renderer": "diffusion"}), [job])
    assert found.origin("stages.render.diffusion.precision") == "the devices"
    assert found.recorded()["stages"]["render"]["diffusion"]["precision"] == "float32"
    warp = load_settings({"device": "cuda:3", "renderer": "warp"})
    assert precision_settled(warp, [job]) is warp


def test_an_error_of_precision_or_device_names_the_setting_that_is_wrong() -> None:
    def problems(device: str, precision: str) -> tuple[str, ...]:
        with pytest.raises(UsageError) as caught:
            devices_of(planner(device, precision=precision))
        return caught.value.problems

    assert problems("cpu", "float16") == ("--set stages.render.diffusion.precision: cpu does not compute in float16.",)
    assert problems("cuda:7", "float32")[0].startswith("--set device: There is no device 'cuda:7'")


@pytest.mark.parametrize("imitated", [True, False])
def test_a_precision_that_a_processor_only_imitates_is_noted(monkeypatch: pytest.MonkeyPatch, imitated: bool) -> None:
    monkeypatch.setattr(runtime, "computes_bfloat16", lambda device: not imitated)
    found = planner("cpu", precision="bfloat16")
    assert devices_of(found) == ()
    assert bool(found.notes) == imitated  # type: ignore[attr-defined]
