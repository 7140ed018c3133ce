"""Weights from files: what does not fit is named, damaged and foreign files are refused, conversion starts without background."""

from __future__ import annotations

import json
import pickle
import re
import shutil
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
from stages.networks.image_encoder import ImageEncoder
from stages.networks.loading import MisfitError, check_finite, load_component, load_pipeline, read_state_dict
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

    def loads(*arguments: Any, **options: Any) -> Any:
        assert all(next(part.parameters()).device.type == "meta" for part in waiting)
        waiting.append(load(*arguments, **options))
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


ADVICE = re.compile("ignore_mismatched_sizes|low_cpu_mem_usage|above report|LOAD REPORT|pip install|https?:|[Mm]ake sure")
"""What libraries say to those who call them."""

ATTENTIVE = replace(TINY, vae=replace(TINY.vae, middle_attention=True))
"""With the part of an autoencoder whose weights once had other names."""

KINDS: dict[str, Any] = {"vae": AutoencoderKL, "image_encoder": ImageEncoder}


def a_component(folder: Path, part: str) -> Path:
    """A saved network; its file of weights."""
    (presets.vae(ATTENTIVE) if part == "vae" else presets.image_encoder(TINY)).save_pretrained(folder)
    (file,) = folder.glob("*.safetensors")
    return file


def changed(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def configured(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def misfit(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first weight missing, the second and the last of another shape, one too many."""
    names = sorted(weights)
    odd = {names[1]: torch.ones(7), names[-1]: torch.ones(7), "surplus": torch.ones(1)}
    return {name: tensor for name, tensor in {**weights, **odd}.items() if name != names[0]}


def sharded(file: Path) -> Path:
    """The same weights in two files; their index."""
    weights = load_file(file)
    names = sorted(weights)
    places = {name: f"{file.stem}-{number % 2}.safetensors" for number, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == shard}, file.parent / shard, {"format": "pt"})
    file.unlink()
    index = file.parent / f"{file.name}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_what_is_wrong_with_all_parts_of_a_saved_pipeline_is_told_at_once(tmp_path: Path) -> None:
    presets.build(TINY).save_pretrained(tmp_path)
    weights = {file.parent.name: file for file in tmp_path.rglob("*.safetensors")}
    weights["vae"].write_bytes(weights["vae"].read_bytes()[:-10])
    expected = []
    for part in ("image_encoder", "denoising_net"):
        names = sorted(load_file(weights[part]))
        expected += [f"{part}: missing {names[0]}", f"{part}: extra surplus"]
        expected += [f"{part}: misshapen {name} [7] instead of [" for name in (names[1], names[-1])]
        changed(weights[part], misfit)
    changed(weights["appearance_net"], lambda found: {**found, "conv_in.bias": torch.full((8,), float("nan"))})
    configured(tmp_path / "pose_guider", heads=0)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(MisfitError) as caught:
        load_pipeline(tmp_path)
    assert caught.value.code == "model_damaged", "that of the first part"
    listing = "\n".join(caught.value.listing)
    assert all(line in listing for line in expected)
    for told in (
        "vae/diffusion_pytorch_model.safetensors is damaged or cut short",
        "image_encoder does not fit CLIPVisionModelWithProjection: 1 missing",
        "appearance_net holds NaN or infinity in conv_in.bias",
        "denoising_net does not fit DenoisingNet: 1 missing",
        "pose_guider/config.json describes no PoseGuider: heads is 0",
        "scheduler_config.json is damaged",
    ):
        assert told in caught.value.message
    for remedy in ("Copy or download it again.", "The training that made it has failed.", "Check that it belongs"):
        assert remedy in caught.value.remedy
    assert not ADVICE.search(str(caught.value))


@pytest.mark.parametrize("part", KINDS)
@pytest.mark.parametrize("layout", ["file", "shards", "pickle"])
def test_what_does_not_fit_is_told_before_weights_are_read(
    part: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_component(tmp_path, part)
    names = sorted(load_file(file))
    changed(file, misfit)
    if layout == "shards":
        sharded(file)
    elif layout == "pickle":
        torch.save(load_file(file), tmp_path / ("pytorch_model.bin" if part == "image_encoder" else f"{file.stem}.bin"))
        file.unlink()
    monkeypatch.setattr(KINDS[part], "from_pretrained", lambda *_, **__: pytest.fail("weights are read"))
    with pytest.raises(MisfitError) as caught:
        load_component(KINDS[part], tmp_path, None, allow_pickle=True)
    assert [line.split(": ", 1)[1].split(" instead")[0] for line in caught.value.listing] == [
        f"missing {names[0]}",
        "extra surplus",
        f"misshapen {names[1]} [7]",
        f"misshapen {names[-1]} [7]",
    ]
    assert not ADVICE.search(str(caught.value))


def in_old_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of autoencoders of Stable Diffusion's first versions."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        weights = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): tensor for key, tensor in weights.items()}
    assert any("proj_attn" in name for name in weights)
    return weights


def with_positions(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "vision_model.embeddings.position_ids": torch.arange(5)[None]}


def without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    ("part", "change"), [("vae", in_old_names), ("image_encoder", with_positions), ("image_encoder", without_prefix)]
)
def test_weights_in_the_names_of_earlier_versions_are_taken(
    part: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], pickled: bool, tmp_path: Path
) -> None:
    file = a_component(tmp_path, part)
    expected = load_file(file)
    changed(file, change)
    if pickled:
        torch.save(load_file(file), tmp_path / ("pytorch_model.bin" if part == "image_encoder" else f"{file.stem}.bin"))
        file.unlink()
    found = load_component(KINDS[part], tmp_path, None, allow_pickle=pickled).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_what_else_lies_in_a_folder_and_configuration_is_no_misfit(tmp_path: Path) -> None:
    file = a_component(tmp_path / "vae", "vae")
    shutil.copy(file, file.with_name(f"{file.stem}.fp16.safetensors"))
    file.with_suffix(".bin").write_bytes(b"never read")
    configured(tmp_path / "vae", field_of_a_later_version=5)
    assert load_component(AutoencoderKL, tmp_path / "vae", None).state_dict().keys() == load_file(file).keys()
    clip = a_component(tmp_path / "clip", "image_encoder")
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": {}, "vision_config": config}))
    assert load_component(ImageEncoder, tmp_path / "clip", None).state_dict().keys() == load_file(clip).keys()


@pytest.mark.parametrize("part", KINDS)
def test_shards_are_read_as_their_index_says_and_it_must_be_true(part: str, tmp_path: Path) -> None:
    file = a_component(tmp_path, part)
    expected = load_file(file)
    index = sharded(file)
    found = load_component(KINDS[part], tmp_path, None).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    content = json.loads(index.read_text())
    for wrong in ({"metadata": {}}, {**content, "weight_map": {"a": "../b.safetensors"}}, {**content, "weight_map": [5]}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match="is no index of files in its folder") as caught:
            load_component(KINDS[part], tmp_path, None)
        assert caught.value.code == "model_damaged"
    index.write_text(json.dumps(content))
    lost = sorted(expected)[0]  # the index still names it
    changed(tmp_path / content["weight_map"][lost], lambda weights: {key: it for key, it in weights.items() if key != lost})
    with pytest.raises(MisfitError, match=f"1 missing: {re.escape(lost)}"):
        load_component(KINDS[part], tmp_path, None)
    gone = sorted(set(content["weight_map"].values()))[1]
    (tmp_path / gone).unlink()
    with pytest.raises(ModelError, match=f"lacks {re.escape(gone)}, which {re.escape(index.name)} names") as caught:
        load_component(KINDS[part], tmp_path, None)
    assert caught.value.code == "model_missing"


def test_weights_under_a_name_that_is_not_read_are_told(tmp_path: Path) -> None:
    file = a_component(tmp_path, "vae")
    file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    with pytest.raises(ModelError, match=r"lacks diffusion_pytorch_model\.safetensors\.") as caught:
        load_component(AutoencoderKL, tmp_path, None)
    assert caught.value.code == "model_missing"


BLOCKS = '["Nope", "Nope", "Nope", "Nope"]'


@pytest.mark.parametrize(
    ("part", "fields", "told"),
    [
        ("vae", {"norm_num_groups": 3}, "describes no AutoencoderKL: norm_num_groups is 3."),
        ("vae", {"down_block_types": ["Nope"] * 4}, f"down_block_types is {BLOCKS}."),
        ("vae", {"act_fn": "odd"}, 'act_fn is "odd".'),
        ("vae", {"layers_per_block": "two", "block_out_channels": []}, 'block_out_channels is [], layers_per_block is "two".'),
        ("vae", {"block_out_channels": [4, 4, 8, 9]}, "block_out_channels is [4, 4, 8, 9] or norm_num_groups is 2."),
        ("vae", {"up_block_types": ["x" * 99] * 4}, f'up_block_types is ["{"x" * 58}....'),
        ("vae", {"norm_num_groups": 3, "act_fn": "odd"}, "these do not go together: "),
        ("vae", {"_class_name": "UNet2DConditionModel", "norm_num_groups": 3}, '_class_name is "UNet2DConditionModel".'),
        ("vae", {"_class_name": "UNet2DConditionModel", "latent_channels": 3}, '_class_name is "UNet2DConditionModel".'),
        ("image_encoder", {"hidden_size": "wide"}, 'describes no CLIPVisionModelWithProjection: hidden_size is "wide".'),
        ("image_encoder", {"num_attention_heads": 3}, "hidden_size is 16 or num_attention_heads is 3."),
        ("image_encoder", {"num_hidden_layers": None}, "num_hidden_layers is null."),
        ("image_encoder", {"vision_config": 5}, "vision_config is 5."),
        ("image_encoder", {"model_type": "vit", "hidden_size": 32}, 'model_type is "vit".'),
    ],
)
def test_a_configuration_of_another_network_or_of_none_is_told_by_its_file_and_field(
    part: str, fields: dict[str, Any], told: str, tmp_path: Path
) -> None:
    a_component(tmp_path, part)
    configured(tmp_path, **fields)
    with pytest.raises(MisfitError, match=re.escape(told)) as caught:
        load_component(KINDS[part], tmp_path, None)
    assert caught.value.message.startswith(f"{tmp_path / 'config.json'} describes no {KINDS[part].__name__}: ")
    assert len(caught.value.listing) == 1
    assert not ADVICE.search(str(caught.value))


@pytest.mark.parametrize("part", KINDS)
def test_a_configuration_that_asks_for_quantised_weights_is_refused(part: str, tmp_path: Path) -> None:
    a_component(tmp_path, part)
    configured(tmp_path, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(ModelError, match=r"config\.json asks for quantised weights") as caught:
        load_component(KINDS[part], tmp_path, None)
    assert caught.value.code == "weights_precision"
    assert not ADVICE.search(str(caught.value))


def test_integers_under_an_earlier_name_are_no_weights_either(tmp_path: Path) -> None:
    file = a_component(tmp_path, "vae")
    name = "encoder.mid_block.attentions.0.{}.weight"
    changed(
        file,
        lambda weights: {key: it.to(torch.int8) if "query.weight" in key else it for key, it in in_old_names(weights).items()},
    )
    with pytest.raises(ModelError, match=re.escape(name.format("to_q"))) as caught:
        load_component(AutoencoderKL, tmp_path, None)
    assert caught.value.code == "weights_precision"
