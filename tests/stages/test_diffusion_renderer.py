"""The stage ``render`` with the diffusion networks, at no size, on a painted job."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from schemas.parameters import DiffusionParameters, RenderParameters
from schemas.problems import ModelError
from stages import warm
from stages.contract import Chunk, Inputs, Work
from stages.diffusion import loaded, renderer
from stages.diffusion.loaded import compiling_failure, device_failure
from stages.networks.denoising_net import DenoisingNet
from stages.networks.importing import Terms, import_pipeline
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.registry import ModelRegistry
from stages.networks.schedulers import NOISE_SCHEDULE
from stages.render import Render
from storage.artifacts import Artifact, ArtifactWriter, PictureWriter
from tests.pipelines import random_pipeline, register_random
from tests.stages.swap_artifacts import Job, painted_job

FRAMES = 10
WHOLE = Chunk(0, 0, 0, FRAMES)
PARTS = (Chunk(0, 0, 0, 4), Chunk(1, 0, 4, FRAMES))
TINY: dict[str, Any] = {"model": "tiny", "steps": 2, "window": 4, "overlap": 1}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    warm.close_idle()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return register_random(tmp_path_factory.mktemp("models") / "models", "tiny")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return painted_job(tmp_path_factory.mktemp("job"), FRAMES)


def render(
    job: Job,
    pipeline: Path,
    chunk: Chunk,
    folder: Path,
    *,
    seed: int = 0,
    told: list[int] | None = None,
    device: str = "cpu",
    **options: Any,
) -> Artifact:
    writer = ArtifactWriter(folder / f"{chunk.index}-{chunk.start}", frames=chunk.frames)
    work = Work(
        RenderParameters(renderer="diffusion", diffusion=DiffusionParameters(**{**TINY, **options})),
        writer,
        Inputs(job.artifacts),
        {"source": job.source, "target": job.target},
        chunk,
        models={"tiny": pipeline},
        device=device,
        seed=seed,
        progress=(lambda frames: None) if told is None else told.append,
    )
    Render().run(work)
    return writer.local()


def crops(*artifacts: Artifact) -> np.ndarray:
    readers = [artifact.pictures("crops") for artifact in artifacts]
    return np.stack([reader.read(frame) for reader in readers for frame in reader.frames]).astype(np.int16)


def computing_ahead() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("computed ahead", "networks"))]


def test_chunks_change_the_picture_by_no_more_than_a_level(job: Job, pipeline: Path, tmp_path: Path) -> None:
    whole = crops(render(job, pipeline, WHOLE, tmp_path / "whole"))
    parts = crops(*(render(job, pipeline, chunk, tmp_path / "parts") for chunk in PARTS))
    assert np.abs(whole - parts).max() <= 1
    assert len(whole) == FRAMES


def test_windows_faded_into_each_other_do_not_know_of_chunks(job: Job, pipeline: Path, tmp_path: Path) -> None:
    whole = crops(render(job, pipeline, WHOLE, tmp_path / "whole", blend="end"))
    parts = crops(*(render(job, pipeline, chunk, tmp_path / "parts", blend="end") for chunk in PARTS))
    np.testing.assert_array_equal(whole, parts)


def test_the_same_seed_gives_the_same_picture_and_another_another(job: Job, pipeline: Path, tmp_path: Path) -> None:
    chunk = Chunk(0, 0, 0, 2)
    first, again, other = (
        crops(render(job, pipeline, chunk, tmp_path / name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 8


def test_a_frame_without_a_face_is_the_targets_own_and_parts_the_windows(pipeline: Path, tmp_path: Path) -> None:
    job = painted_job(tmp_path / "job", 6, missing=(3,))
    found = crops(render(job, pipeline, Chunk(0, 0, 0, 6), tmp_path / "out"))
    assert np.abs(found[3] - job.scenes[3].picture).mean() < 3
    assert all(np.abs(found[frame] - job.scenes[frame].picture).max() > 30 for frame in (0, 2, 4, 5))


def test_weights_are_loaded_once_and_a_source_read_once_for_all_chunks(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {"loaded": 0, "sources": 0}
    load, prepare = loaded.load_pipeline, HeadSwapPipeline.prepare_source

    def counting_load(*arguments: Any) -> HeadSwapPipeline:
        counted["loaded"] += 1
        return load(*arguments)

    def counting_prepare(self: HeadSwapPipeline, picture: np.ndarray) -> Any:
        counted["sources"] += 1
        return prepare(self, picture)

    monkeypatch.setattr(loaded, "load_pipeline", counting_load)
    monkeypatch.setattr(HeadSwapPipeline, "prepare_source", counting_prepare)
    for chunk in PARTS:
        render(job, pipeline, chunk, tmp_path)
    assert counted == {"loaded": 1, "sources": 1}


def test_networks_run_in_one_thread_whatever_is_rendered(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    predict, prepare = DenoisingNet.forward, HeadSwapPipeline.prepare_source

    def predicts(*arguments: Any, **more: Any) -> torch.Tensor:
        threads.add(threading.get_ident())
        return predict(*arguments, **more)

    def prepares(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return prepare(*arguments)

    monkeypatch.setattr(DenoisingNet, "forward", predicts)
    monkeypatch.setattr(HeadSwapPipeline, "prepare_source", prepares)
    for chunk in PARTS:
        render(job, pipeline, chunk, tmp_path)
    assert len(PARTS) > 1
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_the_sampler_does_not_depend_on_what_the_process_rendered_before(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = random_pipeline()
    saved.scheduler = DDIMScheduler.from_config({**NOISE_SCHEDULE, "timestep_spacing": "leading", "steps_offset": 0})
    saved.save_pretrained(tmp_path / "saved")
    terms = Terms("of no use to anybody", True, "random numbers")
    folder = ModelRegistry(tmp_path / "models").add_pipeline(
        "tiny", lambda made: import_pipeline("tiny", tmp_path / "saved", made, terms)
    )
    walked: list[list[int]] = []

    def seen(self: HeadSwapPipeline, *arguments: Any, **more: Any) -> Any:
        frames = stream(self, *arguments, **more)
        yield next(frames)
        walked.append(self.scheduler.timesteps.tolist())
        yield from frames

    stream = HeadSwapPipeline.stream
    monkeypatch.setattr(HeadSwapPipeline, "stream", seen)
    for solver in ("dpm++", "ddim", "dpm++"):
        render(job, folder, Chunk(0, 0, 0, 2), tmp_path / f"{solver}{len(walked)}", solver=solver, steps=10)
    assert walked[0] == walked[2]
    assert walked[0] != walked[1], "of a schedule in which the solvers differ"


def test_progress_is_told_by_steps_and_adds_up_to_the_frames(job: Job, pipeline: Path, tmp_path: Path) -> None:
    told: list[int] = []
    render(job, pipeline, WHOLE, tmp_path, told=told, steps=5)
    assert sum(told) == FRAMES
    assert len(told) > 4


def test_what_was_done_for_want_of_memory_is_on_record(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = DenoisingNet.forward

    def scarce(self: DenoisingNet, latents: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        if len(latents) > 1:
            raise torch.OutOfMemoryError("made up")
        return forward(self, latents, *arguments, **more)

    chunk = Chunk(0, 0, 0, 2)
    usual = render(job, pipeline, chunk, tmp_path / "usual")
    monkeypatch.setattr(DenoisingNet, "forward", scarce)
    found = render(job, pipeline, chunk, tmp_path / "scarce")
    assert "notes" not in usual.facts
    assert found.facts["notes"] == [
        "Frames 0 to 1: Memory ran out: guidance is computed in two halves, features of landmarks at every step and pictures "
        "one by one, with the same result."
    ]
    # A level of what is generated is up to two of the composite, where it is as good as what is there anyway.
    assert np.abs(crops(usual) - crops(found)).max() <= 2


def test_a_device_that_fails_is_named_and_the_work_may_be_tried_again(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **more: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr(DenoisingNet, "forward", broken)
    with pytest.raises(ModelError, match=r"device cpu failed: CUDA error: an illegal memory access was encountered\.") as caught:
        render(job, pipeline, Chunk(0, 0, 0, 2), tmp_path)
    assert (caught.value.code, caught.value.retryable) == ("device_failed", True)
    assert device_failure(RuntimeError("shapes do not match"), "cpu") is None
    scarce = device_failure(torch.OutOfMemoryError("CUDA error: out of memory"), "cuda:0")
    assert scarce is not None
    assert scarce.code == "out_of_memory"


@pytest.mark.parametrize(
    "said",
    [
        ModelError("device_missing", "There is no device 'cuda:1' here, but cuda:0.", "Choose auto or cpu."),
        ModelError("precision_unsupported", "cuda:1 does not compute in bfloat16.", "Choose auto."),
        torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization with error: ..."),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before?"),
        RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
        RuntimeError("Found no NVIDIA driver on your system."),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR"),
    ],
)
def test_a_gpu_that_was_there_when_the_work_was_planned_and_is_gone_has_failed(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Exception
) -> None:
    def lost(*arguments: Any) -> None:
        raise said

    monkeypatch.setattr(loaded, "find_device", lost)
    with pytest.raises(ModelError, match="device cuda:1 failed: ") as caught:
        render(job, pipeline, Chunk(0, 0, 0, 2), tmp_path, device="cuda:1")
    assert (caught.value.code, caught.value.retryable) == ("device_failed", True)


def test_a_device_of_the_settings_that_never_was_there_stays_wrong_usage() -> None:
    assert device_failure(ModelError("device_missing", "There is no GPU."), "cpu") is None
    assert device_failure(ModelError("model_damaged", "The file is damaged."), "cuda:0") is None


@pytest.mark.parametrize("status", ["CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"])
def test_a_library_without_room_for_itself_is_no_broken_device(status: str) -> None:
    failure = device_failure(RuntimeError(f"CUDA error: {status} when calling `create(handle)`"), "cuda:0")
    assert failure is not None
    assert (failure.code, failure.retryable) == ("out_of_memory", True)


def test_conditions_are_made_in_a_thread_of_their_own_which_ends_with_the_render(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: set[int] = set()
    sampled: set[int] = set()
    make = renderer.frame_conditions

    def seen(*arguments: Any) -> Any:
        made.add(threading.get_ident())
        return make(*arguments)

    def fails(*arguments: Any, **more: Any) -> torch.Tensor:
        sampled.add(threading.get_ident())
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(renderer, "frame_conditions", seen)
    monkeypatch.setattr(DenoisingNet, "forward", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        render(job, pipeline, WHOLE, tmp_path)
    assert len(made) == len(sampled) == 1
    assert made != sampled
    assert not computing_ahead()


def test_nothing_is_computed_ahead_any_more_once_a_picture_could_not_be_written_whoever_holds_on_to_what_is_drawn(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    draw, write = renderer.DiffusionRenderer.render, PictureWriter.write

    def holding(*arguments: Any) -> Any:
        held.append(draw(*arguments))
        return held[-1]

    def fails(self: PictureWriter, frame: int, picture: np.ndarray) -> None:
        if frame == 2:
            raise OSError(errno.ENOSPC, "no space left on device")
        write(self, frame, picture)

    monkeypatch.setattr(renderer.DiffusionRenderer, "render", holding)
    monkeypatch.setattr(PictureWriter, "write", fails)
    with pytest.raises(OSError, match="no space left"):
        render(job, pipeline, WHOLE, tmp_path)
    assert held
    assert not computing_ahead()


def test_nothing_is_computed_ahead_any_more_once_a_composite_has_failed(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, leave = DenoisingNet.forward, renderer._Steps.__exit__
    under_way, left = threading.Event(), threading.Event()
    calls: list[int] = []

    def fails(*arguments: Any) -> None:
        assert under_way.wait(60)
        raise RuntimeError("shapes do not match")

    def predicts(*arguments: Any, **more: Any) -> torch.Tensor:
        calls.append(len(calls))
        if len(calls) == 5:  # two steps each of two windows are done, and frames handed on
            under_way.set()
            assert left.wait(60)
        return predict(*arguments, **more)

    def leaves(*arguments: Any) -> None:
        leave(*arguments)
        left.set()

    monkeypatch.setattr(renderer.DiffusionRenderer, "_composed", fails)
    monkeypatch.setattr(DenoisingNet, "forward", predicts)
    monkeypatch.setattr(renderer._Steps, "__exit__", leaves)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        render(job, pipeline, WHOLE, tmp_path, blend="end")
    assert not computing_ahead()
    assert len(calls) == 5  # of six


def test_a_fault_of_the_program_is_none_of_the_device(
    job: Job, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **more: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(DenoisingNet, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        render(job, pipeline, Chunk(0, 0, 0, 2), tmp_path)


def test_a_network_that_never_saw_backgrounds_is_matted_in(job: Job, tmp_path: Path) -> None:
    on_white = register_random(tmp_path / "models", "white", background=False)
    found = crops(render(job, on_white, Chunk(0, 0, 0, 2), tmp_path / "out"))
    assert found.shape == (2, 256, 256, 3)


def test_only_what_it_reads_decides_the_stages_key() -> None:
    stage = Render()
    warp = RenderParameters()
    diffusion = RenderParameters(renderer="diffusion", diffusion=DiffusionParameters(model="tiny"))
    assert stage.pipelines_for(warp) == ()
    assert not stage.seeded_for(warp)
    assert not stage.wants_device(warp)
    assert stage.margin(warp) == 0
    assert stage.pipelines_for(diffusion) == ("tiny",)
    assert stage.seeded_for(diffusion)
    assert stage.wants_device(diffusion)
    assert stage.margin(diffusion) == 32
    apart = diffusion.model_copy(update={"diffusion": DiffusionParameters(model="tiny", blend="end")})
    assert stage.margin(apart) == 16
    assert not {"device", "batch", "batch_size"} & DiffusionParameters.model_fields.keys()


def test_a_compiler_that_is_missing_is_told_and_other_errors_are_not_taken_for_it() -> None:
    missing = type("InvalidCxxCompiler", (RuntimeError,), {"__module__": "torch._inductor.exc"})("No working C++ compiler found")
    told = compiling_failure(missing)
    assert told is not None
    assert told.code == "compiling_failed"
    assert "No working C++ compiler found" in told.message
    assert not told.retryable
    assert compiling_failure(RuntimeError("shapes do not match")) is None
