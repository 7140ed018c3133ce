"""Weights from files: what does not fit is named, damaged and foreign files are refused, conversion starts without background."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.problems import ModelError
from stages.networks import presets
from stages.networks.convert import PublishedFiles, convert, convert_appearance_net, convert_denoising_net, find_published
from stages.networks.loading import check_finite, load_pipeline, read_state_dict
from stages.networks.presets import TINY, PosePreset
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
