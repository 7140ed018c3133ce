"""Weights from files: what does not fit is named, damaged and foreign files are refused, conversion starts without background."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.problems import ModelError
from stages.networks import loading, presets
from stages.networks.convert import PublishedFiles, convert, convert_appearance_net, convert_denoising_net, find_published
from stages.networks.denoising_net import DenoisingNet
from stages.networks.loading import MisfitError, check_finite, load_pipeline, read_state_dict
from stages.networks.presets import TINY, PosePreset, Preset
from stages.networks.registered import pipeline_digest

PUBLISHED = replace(TINY, background=False, pose=PosePreset(heads=2, head_channels=4, normalisation="window"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def weights_of(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as the relatives publish it, at a tiny size."""
    folder = tmp_path / "published"
    folder.mkdir()
    denoising = weights_of(presets.denoising_net(PUBLISHED))
    motion = {name: tensor for name, tensor in denoising.items() if "motion_modules" in name}
    torch.save({name: tensor for name, tensor in denoising.items() if name not in motion}, folder / "denoising_unet.pth")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in motion.items()}}, folder / "motion_module.pth")
    save_file(weights_of(presets.appearance_net(PUBLISHED)), folder / "reference_unet.safetensors")
    torch.save(weights_of(presets.pose_guider(PUBLISHED)), folder / "pose_guider.pth")
    presets.vae(PUBLISHED).save_pretrained(folder / "sd-vae-ft-mse")
    presets.image_encoder(PUBLISHED).save_pretrained(folder / "image_encoder")
    return folder


def test_a_published_model_becomes_a_pipeline_that_saves_and_loads(published: Path, tmp_path: Path) -> None:
    files = find_published(published)
    pipeline = convert(files, replace(PUBLISHED, background=True), allow_pickle=True)
    first = pipeline.denoising_net.conv_in.weight
    assert torch.equal(first[:, :4], read_state_dict(files.denoising_unet, allow_pickle=True)["conv_in.weight"])
    assert float(first[:, 4:].abs().max()) == 0
    assert pipeline.pose_guider.config.normalisation == "window"
    pipeline.save_pretrained(tmp_path / "converted")
    loaded = load_pipeline(tmp_path / "converted")
    for name in ("vae", "image_encoder", "appearance_net", "denoising_net", "pose_guider"):
        expected = getattr(pipeline, name).state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in getattr(loaded, name).state_dict().items())
    assert loaded.scheduler.config.prediction_type == "v_prediction"


def test_parts_are_moved_to_their_device_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presets.build(presets.TINY).save_pretrained(tmp_path)
    load = loading.load_component
    waiting: list[torch.nn.Module] = []

    def loads(*arguments: Any) -> Any:
        assert all(next(part.parameters()).device.type == "meta" for part in waiting)
        waiting.append(load(*arguments))
        return waiting[-1]

    monkeypatch.setattr(loading, "load_component", loads)
    loaded = load_pipeline(tmp_path, torch.float32, torch.device("meta"))
    assert len(waiting) == 5
    assert loaded.device.type == "meta"


def test_pickles_are_refused_unless_allowed_and_then_only_weights_are_read(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        convert(find_published(published), PUBLISHED)
    assert caught.value.code == "model_pickle"
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    for name, save in (("new.pth", torch.save), ("old.pth", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        save({"weight": Evil()}, tmp_path / name)
        with pytest.raises(ModelError) as caught:
            read_state_dict(tmp_path / name, allow_pickle=True)
        assert caught.value.code == "model_pickle"
    assert not marker.exists()


def test_all_that_does_not_fit_is_named() -> None:
    weights = weights_of(presets.denoising_net(PUBLISHED))
    del weights["conv_out.bias"]
    weights["conv_out.scale"] = torch.ones(1)
    weights["mid_block.resnets.0.conv1.weight"] = torch.ones(3, 4)
    with pytest.raises(ModelError) as caught:
        convert_denoising_net(weights, None, PUBLISHED, "some.pth")
    assert caught.value.code == "weights_do_not_fit"
    message = caught.value.message
    assert "some.pth does not fit DenoisingNet" in message
    assert "1 missing: conv_out.bias" in message
    assert "1 extra: conv_out.scale" in message
    assert "1 misshapen: mid_block.resnets.0.conv1.weight [3, 4] instead of [16, 16, 3, 3]" in message


def test_some_motion_modules_are_not_enough() -> None:
    weights = weights_of(presets.denoising_net(PUBLISHED))
    name = next(name for name in weights if name.startswith("up_blocks.0.motion_modules.0"))
    del weights[name]
    with pytest.raises(ModelError, match="1 missing: up_blocks"):
        convert_denoising_net(weights, None, PUBLISHED)


def test_a_model_of_another_size_is_refused_and_long_lists_are_counted() -> None:
    weights = weights_of(presets.appearance_net(replace(TINY, unet=replace(TINY.unet, channels=(16, 32)))))
    with pytest.raises(ModelError, match=r"misshapen: .* and \d+ more"):
        convert_appearance_net(weights, TINY)


def test_output_layers_of_stable_diffusion_are_no_part_of_the_appearance_net() -> None:
    weights = weights_of(presets.appearance_net(TINY))
    weights |= {"conv_norm_out.weight": torch.ones(8), "conv_out.bias": torch.ones(4)}
    assert "conv_out.bias" not in convert_appearance_net(weights, TINY).state_dict()


def test_weights_that_are_not_finite_are_named() -> None:
    weights = weights_of(presets.appearance_net(TINY))
    weights["conv_in.weight"][0, 0, 0, 0] = float("nan")
    weights["mid_block.resnets.1.conv2.bias"][3] = float("inf")
    with pytest.raises(ModelError, match=r"conv_in\.weight, mid_block\.resnets\.1\.conv2\.bias") as caught:
        convert_appearance_net(weights, TINY)
    assert caught.value.code == "weights_not_finite"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_found_wherever_it_lies(dtype: torch.dtype, value: float) -> None:
    sound = torch.linspace(-60000, 60000, 67).to(dtype)
    others = {"empty": torch.empty(0, dtype=dtype), "counter": torch.tensor(7), "sound": sound, "one": sound[0]}
    check_finite(others, "it")
    for place in range(len(sound)):
        broken = sound.clone()
        broken[place] = value
        with pytest.raises(ModelError, match="in broken, slice"):
            check_finite({**others, "broken": broken, "slice": broken[place]}, "it")


WIDER = replace(TINY, unet=replace(TINY.unet, channels=(16, 16)))
VAE = "sd-vae-ft-mse/diffusion_pytorch_model"
SINGLE = replace(TINY.pose, scales="single")


def a_unet(**sizes: Any) -> Preset:
    return replace(TINY, unet=replace(TINY.unet, **sizes))


def a_vae(**sizes: Any) -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2, **blocks, **sizes)


FOREIGN: dict[str, tuple[str, Callable[[], torch.nn.Module], str]] = {
    "longer token": ("image_encoder", lambda: presets.image_encoder(a_unet(token_channels=32)), "image_encoder is 32, not 16"),
    "more latents": ("vae", lambda: a_vae(latent_channels=16), "latent_channels of vae are 16, not 4"),
    "grey pictures": ("vae", lambda: a_vae(in_channels=1, out_channels=1), "in_channels of vae are 1, not 3; out_channels of"),
    "finer latents": (
        "vae",
        lambda: AutoencoderTiny(3, 3, (4,) * 3, (4,) * 3, num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3),
        "side in vae are 4, not 8",
    ),
    "wider poses": ("pose_guider", lambda: presets.pose_guider(WIDER), r"pose_guider are \(16, 16\), not \(8, 16\)"),
    "wider pose": ("pose_guider", lambda: presets.pose_guider(replace(WIDER, pose=SINGLE)), "pose_guider are 16, not 8"),
    "finer pose": (
        "pose_guider",
        lambda: presets.pose_guider(replace(TINY, pose=replace(SINGLE, channels=(4, 8, 8)))),
        "side in pose_guider are 4, not 8",
    ),
    "fewer places": (
        "appearance_net",
        lambda: presets.appearance_net(a_unet(attention=(True, False))),
        r"down_blocks\.1\.attentions\.0 of appearance_net is missing; 16 in denoising_net",
    ),
    "more places": (
        "appearance_net",
        lambda: presets.appearance_net(a_unet(layers=2)),
        "channels; there is none in denoising_net",
    ),
    "wider places": ("appearance_net", lambda: presets.appearance_net(WIDER), "appearance_net has 16 channels; 8 in"),
    "shorter token": ("appearance_net", lambda: presets.appearance_net(a_unet(token_channels=8)), "appearance_net are 8, not 16"),
    "odd input": ("denoising_net", lambda: DenoisingNet(7, 4, (8, 16), 1, (True, True), 2, 16, 4), "denoising_net are 7, not 8"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_parts_of_another_pipeline_are_told_when_it_is_loaded(case: str, tmp_path: Path) -> None:
    part, network, told = FOREIGN[case]
    pipeline = presets.build(TINY)
    pipeline.register_modules(**{part: network()})
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(MisfitError, match=told) as caught:
        load_pipeline(tmp_path)
    assert caught.value.code == "weights_do_not_fit"


def test_parts_of_another_model_are_told_when_published_weights_are_converted(published: Path) -> None:
    a_vae(latent_channels=16).save_pretrained(published / "sd-vae-ft-mse")
    presets.image_encoder(a_unet(token_channels=32)).save_pretrained(published / "image_encoder")
    with pytest.raises(MisfitError) as caught:
        convert(find_published(published), allow_pickle=True)
    assert [line.split(": ")[1] for line in caught.value.listing] == [
        "projection_dim of image_encoder is 32, not 16",
        "latent_channels of vae are 16, not 4",
    ]


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("pose_guider.pth", "pose_guider.pth", "final_proj.weight"),
        ("reference_unet.safetensors", "reference_unet.safetensors", "conv_in.weight"),
        (f"{VAE}.safetensors", f"{VAE}.safetensors", "encoder.conv_in.weight"),
        (f"{VAE}.safetensors", f"{VAE}.bin", "encoder.conv_in.weight"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.complex64])
def test_weights_in_a_precision_that_nothing_computes_in_are_named(
    published: Path, old: str, new: str, name: str, dtype: torch.dtype
) -> None:
    weights = {key: tensor.clone() for key, tensor in read_state_dict(published / old, allow_pickle=True).items()}
    weights[name] = torch.zeros_like(weights[name]).to(dtype)
    (published / old).unlink()
    if new.endswith(".safetensors"):
        save_file(weights, published / new, metadata={"format": "pt"})
    else:
        torch.save(weights, published / new)
    with pytest.raises(ModelError, match=rf"precision that is not read: {re.escape(name)} \(") as caught:
        convert(find_published(published), allow_pickle=True, dtype=None)
    assert caught.value.code == "weights_precision"
    assert "float16, bfloat16, float32 or float64" in caught.value.remedy


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_in_any_precision_that_networks_compute_in_are_taken(published: Path, dtype: torch.dtype) -> None:
    weights = torch.load(published / "pose_guider.pth")
    torch.save(
        {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()},
        published / "pose_guider.pth",
    )
    made = convert(find_published(published), allow_pickle=True, dtype=None).pose_guider
    assert made.final_proj.weight.dtype == (torch.float32 if dtype == torch.float64 else dtype)


def test_all_files_that_cannot_be_read_are_told_with_what_does_not_fit_in_the_others(published: Path) -> None:
    for name in ("denoising_unet.pth", "motion_module.pth"):
        whole = (published / name).read_bytes()
        (published / name).write_bytes(whole[: len(whole) // 2])
    weights = torch.load(published / "pose_guider.pth")
    torch.save({**weights, "surplus": torch.ones(1)}, published / "pose_guider.pth")
    with pytest.raises(ModelError) as caught:
        convert(find_published(published), allow_pickle=True)
    assert caught.value.code == "model_damaged"
    for told in ("denoising_unet.pth is damaged", "motion_module.pth is damaged", "1 extra: surplus"):
        assert told in caught.value.message
    assert "reference_unet" not in caught.value.message


def test_files_that_are_cut_short_or_foreign_are_refused(published: Path, tmp_path: Path) -> None:
    for name in ("reference_unet.safetensors", "pose_guider.pth"):
        whole = (published / name).read_bytes()
        cut = tmp_path / name
        cut.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelError) as caught:
            read_state_dict(cut, allow_pickle=True)
        assert caught.value.code == "model_damaged"
    text = tmp_path / "text.safetensors"
    text.write_text("This is no network.")
    with pytest.raises(ModelError) as caught:
        read_state_dict(text)
    assert caught.value.code == "model_wrong_kind"
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no table of weights"):
        read_state_dict(tmp_path / "list.pth", allow_pickle=True)
    with pytest.raises(ModelError) as caught:
        read_state_dict(tmp_path / "none.safetensors")
    assert caught.value.code == "model_missing"


def test_a_folder_without_all_parts_names_what_is_missing(published: Path) -> None:
    (published / "pose_guider.pth").unlink()
    (published / "image_encoder" / "config.json").unlink()
    with pytest.raises(ModelError, match="lacks pose_guider, image_encoder"):
        find_published(published)


def test_a_foreign_pose_guider_is_refused(published: Path) -> None:
    torch.save({"layers.0.weight": torch.ones(1)}, published / "pose_guider.pth")
    with pytest.raises(ModelError, match=r"neither AniPortrait's nor AnimateAnyone's: it begins with layers\.0\.weight"):
        convert(find_published(published), PUBLISHED, allow_pickle=True)


def test_single_scale_pose_guiders_are_recognised(published: Path) -> None:
    preset = replace(PUBLISHED, pose=PosePreset(scales="single"))
    torch.save(weights_of(presets.pose_guider(preset)), published / "pose_guider.pth")
    files: PublishedFiles = find_published(published)
    assert type(convert(files, PUBLISHED, allow_pickle=True).pose_guider).__name__ == "SingleScalePoseGuider"


def test_a_pipeline_that_was_loaded_is_saved_as_it_was_wherever_it_lay(tmp_path: Path) -> None:
    presets.build(TINY).save_pretrained(tmp_path / "one")
    load_pipeline(tmp_path / "one").save_pretrained(tmp_path / "two")
    load_pipeline(tmp_path / "two").save_pretrained(tmp_path / "three")
    for name in ("two", "three"):
        assert not any(str(tmp_path) in file.read_text() for file in (tmp_path / name).rglob("*.json"))
    assert pipeline_digest(tmp_path / "one") == pipeline_digest(tmp_path / "two") == pipeline_digest(tmp_path / "three")


def test_a_saved_pipeline_is_checked_when_it_is_loaded(tmp_path: Path) -> None:
    presets.build(TINY).save_pretrained(tmp_path)
    digest = pipeline_digest(tmp_path)
    file = tmp_path / "denoising_net" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    whole = file.read_bytes()

    for changed, code in (
        ({name: tensor for name, tensor in weights.items() if name != "conv_out.bias"}, "weights_do_not_fit"),
        ({**weights, "conv_out.bias": torch.full((4,), float("nan"))}, "weights_not_finite"),
        ({**weights, "surplus": torch.ones(1)}, "weights_do_not_fit"),
        ({**weights, "conv_out.bias": torch.ones(5)}, "weights_do_not_fit"),
    ):
        save_file(changed, file, metadata={"format": "pt"})
        assert pipeline_digest(tmp_path) != digest
        with pytest.raises(ModelError) as caught:
            load_pipeline(tmp_path)
        assert caught.value.code == code

    file.write_bytes(whole[:-10])
    with pytest.raises(ModelError) as caught:
        load_pipeline(tmp_path)
    assert caught.value.code == "model_damaged"

    file.write_bytes(whole)
    assert pipeline_digest(tmp_path) == digest
    load_pipeline(tmp_path)

    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ModelError, match="no HeadSwapPipeline"):
        load_pipeline(tmp_path)
    for scheduler in (["diffusers", "utils"], ["diffusers", "SchedulerMixin"], ["DDIMScheduler"], 5, None):
        (tmp_path / "model_index.json").write_text(json.dumps({**index, "scheduler": scheduler}))
        with pytest.raises(ModelError, match="scheduler is of the unknown kind"):
            load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    config = tmp_path / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0}))
    with pytest.raises(ModelError, match="scaling_factor of the VAE is 0"):
        load_pipeline(tmp_path)
