"""HeadSwapPipeline: streamed videos, chunks, memory, and that it is a diffusers pipeline like any other."""

from __future__ import annotations

import copy
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, LCMScheduler
from numpy.typing import NDArray

from schemas.problems import ModelError, UsageError
from stages.networks import denoising_net, presets
from stages.networks import vae as autoencoder
from stages.networks.conditions import FrameConditions, Predictor, SourceFeatures
from stages.networks.loading import load_pipeline
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.runtime import choose_precision, find_device, gpu_count, place, served_gpus
from stages.networks.sampling import WINDOWS_KEPT, SamplingOptions
from stages.networks.schedulers import Solver, make_scheduler
from stages.networks.unet import Flow

SIZE = 32
SHOT = 24
OPTIONS = SamplingOptions(steps=2, guidance_scale=3.0, window=8, overlap=2)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def pipeline() -> HeadSwapPipeline:
    """Untrained, but with nothing left at zero: motion, pose and background have an effect."""
    made = presets.build(presets.TINY, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in (made.denoising_net, made.pose_guider):
            for parameter in network.parameters():
                if parameter.ndim > 1 and (float(parameter.abs().max()) == 0 or parameter.shape[1] == 8):
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def source(pipeline: HeadSwapPipeline) -> SourceFeatures:
    return pipeline.prepare_source(pictures(1, seed=9)[0])


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def conditions(frames: range) -> Iterator[FrameConditions]:
    for frame in frames:
        drawing, background = pictures(2, seed=100 + frame)
        yield FrameConditions(frame, drawing, background)


def generate(
    pipeline: HeadSwapPipeline, source: SourceFeatures, chunk: range, options: SamplingOptions = OPTIONS, **more: Any
) -> NDArray[np.int16]:
    shot = range(SHOT)
    frames = list(pipeline.stream(source, conditions(options.plan(shot, chunk).frames), shot, chunk, options, **more))
    assert [generated.frame for generated in frames] == list(chunk)
    return np.stack([generated.picture for generated in frames]).astype(np.int16)


def test_chunks_blended_at_the_end_give_the_same_bytes_as_the_whole(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    options = replace(OPTIONS, blend="end")
    whole = generate(pipeline, source, range(SHOT), options)
    chunked = np.concatenate([generate(pipeline, source, range(9), options), generate(pipeline, source, range(9, SHOT), options)])
    assert np.array_equal(whole, chunked)


def test_chunks_blended_at_every_step_differ_by_no_more_than_a_level(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    whole = generate(pipeline, source, range(SHOT))
    chunked = np.concatenate([generate(pipeline, source, range(9)), generate(pipeline, source, range(9, SHOT))])
    assert np.abs(whole - chunked).max() <= 1


def test_every_condition_reaches_the_picture(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    shot = range(4)
    given = list(conditions(shot))

    def made(changed: list[FrameConditions], head: SourceFeatures = source, seed: int = 0) -> NDArray[np.int16]:
        frames = pipeline.stream(head, changed, shot, options=replace(OPTIONS, seed=seed))
        return np.stack([generated.picture for generated in frames]).astype(np.int16)

    usual = made(given)
    assert np.array_equal(usual, made(given))
    for other in (
        made([replace(condition, drawing=255 - condition.drawing) for condition in given]),
        made([replace(condition, background=255 - condition.background) for condition in given]),
        made(given, pipeline.prepare_source(pictures(1, seed=10)[0])),
        made(given, seed=1),
    ):
        assert np.abs(other - usual).max() > 0


def test_conditions_are_read_as_needed_and_frames_handed_on_early(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    read = 0
    alive: weakref.WeakSet[FrameConditions] = weakref.WeakSet()

    def counted() -> Iterator[FrameConditions]:
        nonlocal read
        for condition in conditions(range(40)):
            read += 1
            alive.add(condition)
            yield condition

    lead, kept = [], []
    for generated in pipeline.stream(source, counted(), range(40), options=replace(OPTIONS, vae_slice=1)):
        lead.append(read - generated.frame)
        kept.append(len(alive))
    assert max(lead) <= 8 + 6 * OPTIONS.steps
    # What was read is forgotten: some windows before and after the frame at hand, whatever the length.
    assert max(kept) <= 2 * 8 + max(lead)


def test_the_pipeline_called_as_a_whole_gives_what_it_streams(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    given = list(conditions(range(10)))
    whole = pipeline(
        pictures(1, seed=9)[0],
        np.stack([condition.drawing for condition in given]),
        np.stack([condition.background for condition in given]),
        OPTIONS,
    )
    streamed = pipeline.stream(source, given, range(10), options=OPTIONS)
    assert np.array_equal(whole, np.stack([generated.picture for generated in streamed]))


def count_calls(pipeline: HeadSwapPipeline, monkeypatch: pytest.MonkeyPatch, fail: Any = None) -> list[tuple[int, int]]:
    """Rows and frames of every call of the DenoisingNet; ``fail`` says which run out of memory."""
    calls: list[tuple[int, int]] = []
    forward = pipeline.denoising_net.forward

    def counted(latents: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        if fail is not None and fail(len(latents), latents.shape[2], len(calls)):
            raise torch.OutOfMemoryError("made up")
        calls.append((len(latents), latents.shape[2]))
        return forward(latents, *arguments, **more)

    monkeypatch.setattr(pipeline.denoising_net, "forward", counted)
    return calls


def test_guidance_is_one_batch_and_costs_nothing_outside_its_interval(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(pipeline, monkeypatch)
    list(pipeline.stream(source, conditions(range(8)), range(8), options=OPTIONS))
    assert calls == [(2, 8)] * 2
    calls.clear()
    list(pipeline.stream(source, conditions(range(8)), range(8), options=replace(OPTIONS, guidance_interval=(0.0, 0.7))))
    assert calls == [(1, 8), (2, 8)]


def test_out_of_memory_in_the_midst_of_a_video_keeps_its_windows(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, blend="end", context=0)
    whole = generate(pipeline, source, range(SHOT), options=options)
    enough = options.steps * 2  # two windows, whose frames are handed on
    notes: list[str] = []
    count_calls(pipeline, monkeypatch, fail=lambda rows, frames, calls: rows == 2 and calls >= enough)
    assert np.abs(whole - generate(pipeline, source, range(SHOT), options=options, note=notes.append)).max() <= 1
    assert [note.split("one by one, ")[1] for note in notes] == ["with the same result."]


def test_out_of_memory_after_blended_frames_were_handed_on_does_not_promise_the_same(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate(pipeline, source, range(SHOT))
    notes: list[str] = []
    count_calls(pipeline, monkeypatch, fail=lambda rows, frames, calls: rows == 2 and calls > 6)
    assert np.abs(whole - generate(pipeline, source, range(SHOT), note=notes.append)).max() <= 1
    assert [note.split("one by one, ")[1] for note in notes] == ["with nearly the same result."]


def test_out_of_memory_halves_the_batch_with_the_same_result(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate(pipeline, source, range(SHOT))
    notes: list[str] = []
    count_calls(pipeline, monkeypatch, fail=lambda rows, frames, calls: rows == 2)
    assert np.abs(whole - generate(pipeline, source, range(SHOT), note=notes.append)).max() <= 1
    assert len(notes) == 1
    assert "two halves" in notes[0]
    assert "with the same result" in notes[0], "nothing had been handed on"


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be ...",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_memory_that_runs_out_in_a_library_is_memory_that_runs_out(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    forward = pipeline.denoising_net.forward

    def scarce(latents: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        if len(latents) == 2:
            raise RuntimeError(said)
        return forward(latents, *arguments, **more)

    whole = generate(pipeline, source, range(8))
    monkeypatch.setattr(pipeline.denoising_net, "forward", scarce)
    notes: list[str] = []
    assert np.abs(whole - generate(pipeline, source, range(8), note=notes.append)).max() <= 1
    assert len(notes) == 1


def test_any_other_error_of_the_networks_is_raised_as_it_is(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **more: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(pipeline.denoising_net, "forward", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        generate(pipeline, source, range(8))


def test_out_of_memory_gives_up_what_is_kept_and_taken_together_before_windows(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    posed: list[int] = []
    encode, guide = autoencoder.encode, Predictor._pose

    def slices(vae: Any, pixels: torch.Tensor, at_once: int = 4) -> torch.Tensor:
        encoded.append(at_once)
        return encode(vae, pixels, at_once)

    def poses(self: Predictor, window: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        features = guide(self, window)
        posed.append(self._pose_bytes)
        return features

    monkeypatch.setattr(autoencoder, "encode", slices)
    monkeypatch.setattr(Predictor, "_pose", poses)
    calls = count_calls(pipeline, monkeypatch, fail=lambda rows, frames, calls: rows == 2 and calls > 2)
    notes: list[str] = []
    generate(pipeline, source, range(SHOT), note=notes.append)
    assert len(notes) == 1
    assert {frames for _, frames in calls} == {8}, "windows stay"
    assert (encoded[0], encoded[-1]) == (OPTIONS.vae_slice, 1)
    assert posed[0] > 0
    assert posed[-1] == 0


def test_features_of_the_network_that_nobody_reads_are_not_held(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows: list[Flow] = []

    def kept(*arguments: Any, **more: Any) -> Flow:
        flows.append(Flow(*arguments, **more))
        return flows[-1]

    monkeypatch.setattr(denoising_net, "Flow", kept)
    generate(pipeline, source, range(8))
    assert flows
    assert not any(flow.features for flow in flows)


def test_out_of_memory_makes_windows_smaller_and_says_so(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    # In the middle of the chunk, when frames have been handed on already.
    calls = count_calls(pipeline, monkeypatch, fail=lambda rows, frames, calls: frames > 4 and calls > 6)
    made = generate(pipeline, source, range(6, SHOT), note=notes.append)
    assert made.shape == (SHOT - 6, SIZE, SIZE, 3)
    assert calls[-1] == (1, 4)
    assert "windows of 4 instead of 8" in notes[-1]


def test_out_of_memory_with_the_smallest_windows_is_an_error(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_calls(pipeline, monkeypatch, fail=lambda rows, frames, calls: True)
    with pytest.raises(ModelError, match="windows of 4 frames") as caught:
        generate(pipeline, source, range(SHOT), note=lambda text: None)
    assert caught.value.code == "out_of_memory"
    assert caught.value.retryable


def test_pose_features_that_do_not_fit_are_computed_again(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    kept = generate(pipeline, source, range(12))
    assert np.array_equal(kept, generate(pipeline, source, range(12), replace(OPTIONS, pose_cache_bytes=0)))


def test_pose_features_are_kept_for_as_many_windows_whatever_the_length(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    guide = Predictor._pose

    def poses(self: Predictor, window: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        features = guide(self, window)
        kept.append(len(self._poses))
        return features

    monkeypatch.setattr(Predictor, "_pose", poses)
    options, shot = replace(OPTIONS, window=4, overlap=1, steps=10), range(34)
    made = {}
    for most in (WINDOWS_KEPT, None):
        kept.clear()
        monkeypatch.setattr("stages.networks.pipeline.WINDOWS_KEPT", most)
        made[most] = [frame.picture for frame in pipeline.stream(source, conditions(shot), shot, options=options)]
        assert max(kept) <= (most or options.steps)
    assert max(kept) == options.steps
    assert np.array_equal(*made.values()), "to the bit"


def overflowing(pipeline: HeadSwapPipeline, part: str) -> HeadSwapPipeline:
    """In half precision, with weights whose products it cannot hold."""
    other = copy.deepcopy(pipeline).to(torch.float16)
    with torch.no_grad():
        other.components[part].get_submodule("conv_out" if part == "denoising_net" else "decoder.conv_out").weight.fill_(6e4)
    return other


@pytest.mark.parametrize("part", ["denoising_net", "vae"])
def test_pictures_that_are_not_finite_are_an_error_that_names_the_precision(pipeline: HeadSwapPipeline, part: str) -> None:
    other = overflowing(pipeline, part)
    with pytest.raises(ModelError, match=r"Frame 0 came out as NaN or infinity .* float16") as caught:
        generate(other, other.prepare_source(pictures(1, seed=9)[0]), range(9))
    assert caught.value.code == "pictures_not_finite"
    assert "--set stages.render.diffusion.precision=float32" in caught.value.remedy
    assert "float32 or bfloat16" in caught.value.remedy
    assert "weights" in caught.value.remedy
    assert not caught.value.retryable


def test_frames_before_one_that_is_not_finite_are_handed_on(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = pipeline.denoising_net.forward, 0

    def broken(*given: Any, **more: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forward(*given, **more) * (torch.nan if calls == 2 * OPTIONS.steps else 1)

    monkeypatch.setattr(pipeline.denoising_net, "forward", broken)
    frames = pipeline.stream(source, conditions(range(SHOT)), range(SHOT), options=replace(OPTIONS, blend="end"))
    # Of the second window, which begins with frame 6.
    assert [next(frames).frame for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ModelError, match=r"Frame 6 .* float32") as caught:
        next(frames)
    assert "precision" not in caught.value.remedy, "there is no higher one"


def test_wrong_conditions_are_named(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    good = list(conditions(range(8)))
    odd = replace(good[3], drawing=np.zeros((30, 30, 3), np.uint8))
    larger = replace(good[3], background=np.zeros((64, 64, 3), np.uint8))
    for given, message in (
        (good[:5], "end before frame 5"),
        (good[:3] + good[4:], "frame 3 are missing"),
        ([*good[:3], odd, *good[4:]], "drawing of frame 3 is 30x30 pixels"),
        ([*good[:3], larger, *good[4:]], "background of frame 3 has another size"),
        ([*good[:3], good[1], *good[4:]], "frame 1 come after those of frame 2"),
    ):
        with pytest.raises(UsageError, match=message):
            list(pipeline.stream(source, given, range(8), options=OPTIONS))


@pytest.mark.parametrize("solver", ["unipc", "dpm++", "ddim"])
def test_it_is_saved_and_loaded_with_its_scheduler(
    solver: Solver, pipeline: HeadSwapPipeline, source: SourceFeatures, tmp_path: Path
) -> None:
    pipeline.scheduler = make_scheduler(solver, pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    options = replace(OPTIONS, steps=3)
    whole = generate(pipeline, source, range(9), options)
    for loaded in (HeadSwapPipeline.from_pretrained(tmp_path, local_files_only=True), load_pipeline(tmp_path)):
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded.scheduler) is type(pipeline.scheduler)
        assert loaded.scheduler.config.timestep_spacing == "trailing"
        assert np.array_equal(whole, generate(loaded, loaded.prepare_source(pictures(1, seed=9)[0]), range(9), options))


def test_schedulers_of_diffusers_are_taken_where_they_are_known(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    options = replace(OPTIONS, steps=3)
    pipeline.scheduler = make_scheduler("ddim")
    exact = generate(pipeline, source, range(9), options)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    assert np.array_equal(generate(pipeline, source, range(9), options), exact)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(UsageError, match="LCMScheduler draws noise"):
        generate(pipeline, source, range(9), options)
    pipeline.scheduler = make_scheduler("ddim")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling on a CPU needs g++")
def test_compiled_networks_give_the_same_pictures_but_for_rounding(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    plan = replace(OPTIONS, guidance_interval=(0.3, 1.0))  # steps with guidance and without
    expected = generate(pipeline, source, range(SHOT), plan)
    other = copy.deepcopy(pipeline)
    place(other, "cpu", "float32", compile_networks=True)
    found = generate(other, source, range(SHOT), plan)
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_only_whole_windows_and_batches_are_compiled(
    pipeline: HeadSwapPipeline, source: SourceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def watching(name: str) -> Callable[..., Any]:
        def backend(graph: Any, inputs: Any) -> Any:
            compiled.append(name)
            return graph.forward

        return backend

    expected = generate(pipeline, source, range(SHOT))
    other = copy.deepcopy(pipeline)
    torch.compiler.reset()
    other.denoising_net.compile(backend=watching("net"), dynamic=False)
    other.vae.decoder.compile(backend=watching("decoder"), dynamic=False)
    assert np.abs(generate(other, source, range(SHOT)) - expected).max() <= 2
    there = list(compiled)
    assert {"net", "decoder"} == set(there)
    for frames in range(1, OPTIONS.window):  # shots that are shorter than a window, and rests of batches
        shot = range(frames)
        assert len(list(other.stream(source, conditions(shot), shot, options=OPTIONS))) == frames
    assert compiled == there
    # Once memory has run out there is none for compiling what is smaller.
    predict, failed = Predictor.__call__, []

    def runs_out(self: Predictor, *arguments: Any) -> torch.Tensor:
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError
        return predict(self, *arguments)

    monkeypatch.setattr(Predictor, "__call__", runs_out)
    assert np.abs(generate(other, source, range(SHOT)) - expected).max() <= 2
    assert failed
    assert compiled == there


def test_half_precision_and_channels_last_change_little(pipeline: HeadSwapPipeline, source: SourceFeatures) -> None:
    expected = generate(pipeline, source, range(9))
    other = presets.build(presets.TINY)
    for name in ("vae", "image_encoder", "appearance_net", "denoising_net", "pose_guider"):
        getattr(other, name).load_state_dict(getattr(pipeline, name).state_dict())
    other.scheduler = pipeline.scheduler
    place(other, "cpu", "float32", channels_last=True)
    reference = other.prepare_source(pictures(1, seed=9)[0])
    assert np.abs(generate(other, reference, range(9)) - expected).max() <= 1
    place(other, "cpu", "bfloat16")
    reference = other.prepare_source(pictures(1, seed=9)[0])
    assert np.abs(generate(other, reference, range(9)) - expected).mean() < 3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_any_autoencoder_of_pictures_will_do(kind: str) -> None:
    sizes = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    vae = presets.vae(presets.TINY) if kind == "kl" else AutoencoderTiny(**sizes).eval()
    given = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    assert autoencoder.scale_factor(vae) == 8
    latents = autoencoder.encode(vae, given, at_once=2)
    assert latents.shape == (3, 4, 4, 6)
    assert torch.allclose(latents[2:], autoencoder.encode(vae, given[2:]), atol=1e-5)
    decoded = autoencoder.decode(vae, latents, at_once=2)
    assert decoded.shape == given.shape
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    for name in ("cuda:99", "toaster", "meta"):
        with pytest.raises(ModelError, match="no device") as caught:
            find_device(name)
        assert caught.value.code == "device_missing"
    with pytest.raises(ModelError, match="does not compute in float16"):
        choose_precision(torch.device("cpu"), "float16")
    assert choose_precision(torch.device("cpu")) == torch.float32


def test_a_gpu_computes_in_what_it_has_itself_and_does_not_imitate(monkeypatch: pytest.MonkeyPatch) -> None:
    majors = {None: 8, 0: 8, 1: 7}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=majors[device.index]))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # what it says of imitation, and of the current device
    assert choose_precision(torch.device("cuda")) == torch.bfloat16
    assert choose_precision(torch.device("cuda:0")) == torch.bfloat16
    assert choose_precision(torch.device("cuda:1")) == torch.float32
    assert choose_precision(torch.device("cuda:1"), "float16") == torch.float16
    with pytest.raises(ModelError, match="cuda:1 does not compute in bfloat16"):
        choose_precision(torch.device("cuda:1"), "bfloat16")


def test_gpus_that_cuda_cannot_use_are_not_there_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    assert gpu_count() == 0
    assert find_device().type == "cpu"
    with pytest.raises(ModelError, match=r"no device 'cuda:1' .* driver on your system is too old \(found version 11040\)\."):
        find_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu_count() == 2
    assert find_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("capability", "served"),
    [((7, 0), False), ((7, 5), True), ((8, 6), True), ((8, 9), True), ((9, 0), True), ((10, 0), False), ((12, 1), True)],
)
def test_a_gpu_that_this_pytorch_is_not_built_for_is_refused_before_anything_runs(
    capability: tuple[int, int], served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    major, minor = capability
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "sm_120f", "odd"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major, minor=minor))
    if served:
        assert find_device("cuda:0") == find_device() == torch.device("cuda:0")
        assert served_gpus() == ["cuda:0"]
        return
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ModelError, match=rf"is built for sm_75, .* but cuda(:0)? is an sm_{major}{minor}\.") as caught:
            find_device(name)
        assert caught.value.code == "device_missing"
    assert find_device() == torch.device("cpu"), "as if it were not there"
    assert served_gpus() == []
    # What the driver translates runs on whatever is newer.
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "compute_75"])
    if capability > (7, 5):
        assert served_gpus() == ["cuda:0"]


def test_what_is_called_float32_is_not_rounded_whatever_the_environment_says() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        place(presets.build(presets.TINY), "cpu")
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def test_a_gpu_that_does_not_answer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: torch.device) -> None:
        raise torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization with error: ...")

    monkeypatch.setattr(torch.cuda, "get_device_properties", lost)
    with pytest.raises(ModelError, match="device cuda:1 does not answer") as caught:
        choose_precision(torch.device("cuda:1"))
    assert caught.value.code == "device_missing"


def test_the_same_seed_builds_the_same_untrained_pipeline() -> None:
    first, second = (presets.build(presets.TINY, seed=4).denoising_net.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
