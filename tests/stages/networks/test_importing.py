"""Pipelines that are registered: recognised, converted, checked, described, and found again."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flows.models import verify
from schemas.problems import HeadswapError, ModelError, UsageError
from stages.networks import presets
from stages.networks.convert import convert, find_published
from stages.networks.denoising_net import DenoisingNet
from stages.networks.importing import Terms, import_pipeline
from stages.networks.loading import MisfitError, load_pipeline
from stages.networks.presets import TINY, PosePreset
from stages.networks.registered import RECORD, Registration, pipeline_digest, write_sampling
from stages.networks.registry import ModelRegistry

PUBLISHED = replace(TINY, background=False, pose=PosePreset(heads=2, head_channels=4, normalisation="window"))
TERMS = Terms("in-house", True, "trained by us")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def weights_of(network: torch.nn.Module) -> dict[str, Tensor]:
    """Random weights: nothing is left at zero, as it is where a network was never trained."""
    torch.manual_seed(0)
    return {
        name: tensor + 0.01 * torch.randn_like(tensor) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    presets.build(TINY).save_pretrained(folder)
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    for name, network in (
        ("denoising_unet", presets.denoising_net(PUBLISHED)),
        ("reference_unet", presets.appearance_net(PUBLISHED)),
        ("pose_guider", presets.pose_guider(PUBLISHED)),
    ):
        torch.save(weights_of(network), folder / f"{name}.pth")
    presets.vae(PUBLISHED).save_pretrained(folder / "vae")
    presets.image_encoder(PUBLISHED).save_pretrained(folder / "image_encoder")
    return folder


def added(registry: ModelRegistry, name: str, source: Path, terms: Terms = TERMS, *, allow_pickle: bool = False) -> Registration:
    registry.add_pipeline(name, lambda made: import_pipeline(name, source, made, terms, allow_pickle=allow_pickle))
    return registry.pipelines[name]


def code_of(registry: ModelRegistry, source: Path, **options: bool) -> str:
    with pytest.raises(HeadswapError) as caught:
        added(registry, "broken", source, **options)
    assert caught.value.remedy
    assert "broken" not in registry.pipelines
    assert not [path for path in registry.folder.glob("*") if path.is_dir()], "nothing is left behind"
    return caught.value.code


def test_a_saved_pipeline_is_registered_with_digest_licence_and_what_it_can(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    found = added(registry, "headswap-tiny", saved)
    assert (found.licence, found.commercial, found.origin) == ("in-house", True, "trained by us")
    assert (found.layout, found.profile, found.picture_size) == ("headswap", "tiny", 64)
    for again in (registry, ModelRegistry(tmp_path / "models"), pickle.loads(pickle.dumps(registry))):
        assert again.pipelines["headswap-tiny"] == found
        assert again.digest("headswap-tiny") == found.digest
        assert again.path("headswap-tiny") == tmp_path / "models" / "headswap-tiny"
        (status,) = [status for status in again.list() if status.name == "headswap-tiny"]
        assert (status.state, status.bytes > 0) == ("present", True)
    load_pipeline(registry.require("headswap-tiny"))


def test_what_was_never_trained_is_told(saved: Path, tmp_path: Path) -> None:
    found = added(ModelRegistry(tmp_path / "models"), "untrained", saved)
    assert not found.background
    assert any("PoseGuider was never trained" in note for note in found.notes)
    assert any("MotionModule" in note for note in found.notes)


def test_published_weights_are_converted_and_draw_on_white_until_they_are_trained(published: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    found = added(registry, "relative", published, allow_pickle=True)
    assert (found.layout, found.background, found.picture_size, found.notes) == ("aniportrait", False, 512, ())
    folder = registry.require("relative")
    assert not [path for path in folder.rglob("*") if path.suffix in (".pth", ".bin", ".pt")]
    network = load_pipeline(folder).denoising_net
    assert network.config.in_channels == 8
    assert float(network.conv_in.weight[:, 4:].abs().max()) == 0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_half_precision_stay_of_half_precision_to_the_bit(published: Path, tmp_path: Path, suffix: str) -> None:
    for name in ("denoising_unet", "reference_unet", "pose_guider"):
        weights = {key: halved(tensor) for key, tensor in torch.load(published / f"{name}.pth").items()}
        (published / f"{name}.pth").unlink()
        if suffix == ".pth":
            torch.save(weights, published / f"{name}.pth")
        else:
            save_file(weights, published / f"{name}.safetensors")
    presets.vae(PUBLISHED).half().save_pretrained(published / "vae")
    registry = ModelRegistry(tmp_path / "models")
    assert added(registry, "half", published, allow_pickle=True).layout == "aniportrait"
    folder = registry.require("half")
    for part, precision in (
        ("denoising_net", torch.float16),
        ("appearance_net", torch.float16),
        ("pose_guider", torch.float16),
        ("vae", torch.float16),
        ("image_encoder", torch.float32),
    ):
        (file,) = (folder / part).glob("*.safetensors")
        assert {it.dtype for it in load_file(file).values() if it.is_floating_point()} == {precision}, part
        assert file.stat().st_mode & 0o444 == 0o444, "others may read a shared folder of models"
    loaded = load_pipeline(folder).pose_guider.state_dict()
    path = published / f"pose_guider{suffix}"
    original = load_file(path) if suffix == ".safetensors" else torch.load(path)
    assert all(torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in original.items())


def halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def test_what_is_written_is_what_save_pretrained_writes(published: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    found = added(registry, "relative", published, allow_pickle=True)
    convert(find_published(published), allow_pickle=True).save_pretrained(tmp_path / "whole")
    assert pipeline_digest(tmp_path / "whole") == found.digest


def test_what_takes_long_is_told_before_it_begins(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def make(made: Path) -> Registration:
        return import_pipeline("mine", published, made, TERMS, allow_pickle=True, tell=told.append)

    ModelRegistry(tmp_path / "models").add_pipeline("mine", make)
    assert not told, "nothing here takes long"
    monkeypatch.setattr("stages.networks.files.WORTH_TELLING", 1)
    ModelRegistry(tmp_path / "models").add_pipeline("mine", make)
    assert [line.split(":")[0] for line in told] == [
        "Checking the weights",
        "Writing vae",
        "Writing image_encoder",
        "Writing appearance_net",
        "Writing denoising_net",
        "Writing pose_guider",
        "Computing digests",
    ]


def test_verifying_tells_which_large_file_it_reads(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ModelRegistry(tmp_path / "models")
    added(registry, "mine", saved)
    told: list[str] = []
    registry.verify(told.append)
    assert not told, "nothing here takes long"
    largest = max(registry.require("mine").rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    monkeypatch.setattr("stages.networks.files.WORTH_TELLING", largest.stat().st_size)
    verify(registry, told.append)
    assert told == [f"Reading {largest}: 0.0 GB"]
    registry.list(told.append)
    assert len(told) == 1, "what is remembered is not read"


def test_a_disk_without_room_for_it_is_told_before_anything_is_written(
    published: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    for source in (published, saved):
        assert code_of(ModelRegistry(tmp_path / "models"), source, allow_pickle=True) == "models_folder"


def test_a_disk_that_fills_up_while_it_is_written_leaves_nothing_behind(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(DenoisingNet, "save_pretrained", full)
    assert code_of(ModelRegistry(tmp_path / "models"), published, allow_pickle=True) == "models_folder"


def test_an_import_reads_digests_once_and_verifying_reads_every_file_again(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(tmp_path / "models")
    with monkeypatch.context() as patched:
        patched.setattr("stages.networks.registry.sha256_of", lambda path: pytest.fail(f"{path} is read again"))
        added(registry, "mine", saved)
        assert ModelRegistry(tmp_path / "models").path("mine") == registry.path("mine")
    folder = registry.require("mine")
    files = sorted(path for path in folder.rglob("*.json") if path.name != RECORD)
    for path in files:  # what no look at size and time of change tells
        content, status = path.read_bytes(), path.stat()
        path.write_bytes(content.replace(b"{", b"[", 1))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        (found,) = [status for status in ModelRegistry(tmp_path / "models").verify() if status.name == "mine"]
        assert (found.state, str(path) in found.detail) == ("damaged", True)
        path.write_bytes(content)
    (folder / "vae" / "surplus.json").write_text("{}")
    (found,) = [status for status in ModelRegistry(tmp_path / "models").verify() if status.name == "mine"]
    assert (found.state, "other files" in found.detail) == ("damaged", True)


def test_pickles_are_refused_unless_allowed(published: Path, tmp_path: Path) -> None:
    assert code_of(ModelRegistry(tmp_path / "models"), published) == "model_pickle"


def pickled(folder: Path, parts: tuple[str, ...], change: Callable[[Tensor], object] = lambda tensor: tensor) -> None:
    """Weights of parts of a saved pipeline as pickles instead of safetensors."""
    for part in parts:
        (file,) = (folder / part).glob("*.safetensors")
        name = "pytorch_model.bin" if part == "image_encoder" else f"{file.stem}.bin"
        torch.save({key: change(tensor) for key, tensor in load_file(file).items()}, folder / part / name)
        file.unlink()


def test_a_saved_pipeline_of_pickles_is_registered_as_safetensors_where_that_is_allowed(tmp_path: Path) -> None:
    registry, folder = ModelRegistry(tmp_path / "models"), tmp_path / "saved"
    presets.build(TINY).save_pretrained(folder)
    write_sampling(folder, {"window": 8, "overlap": 2})
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    plain = added(registry, "plain", folder)
    pickled(folder, ("image_encoder", "denoising_net"))
    refused = ModelRegistry(tmp_path / "others")
    assert code_of(refused, folder) == "model_pickle"
    with pytest.raises(ModelError) as caught:
        added(refused, "mine", folder)
    assert "image_encoder holds no weights in safetensors but pytorch_model.bin" in caught.value.message
    assert "denoising_net holds no weights in safetensors but diffusion_pytorch_model.bin" in caught.value.message
    assert "--allow-pickle" in caught.value.remedy
    found = added(registry, "mine", folder, allow_pickle=True)
    assert (found.layout, found.digest, found.sampling) == ("headswap", plain.digest, plain.sampling)
    made = registry.require("mine")
    assert not list(made.rglob("*.bin"))
    assert (made / "README.md").is_file()
    load_pipeline(made)


def test_pickles_of_half_precision_stay_of_half_precision(tmp_path: Path) -> None:
    registry, folder = ModelRegistry(tmp_path / "models"), tmp_path / "saved"
    presets.build(TINY).save_pretrained(folder)
    pickled(folder, ("image_encoder", "vae"), halved)
    added(registry, "half", folder, allow_pickle=True)
    for part, precision in (("vae", torch.float16), ("image_encoder", torch.float16), ("denoising_net", torch.float32)):
        (file,) = (registry.require("half") / part).glob("*.safetensors")
        assert {it.dtype for it in load_file(file).values() if it.is_floating_point()} == {precision}, part


def test_a_saved_pipeline_whose_pickles_hold_more_than_weights_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    marker, folder = tmp_path / "ran", tmp_path / "saved"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    presets.build(TINY).save_pretrained(folder)
    pickled(folder, ("image_encoder",), lambda tensor: Evil())
    assert code_of(ModelRegistry(tmp_path / "models"), folder, allow_pickle=True) == "model_pickle"
    assert not marker.exists()


def test_every_weight_that_does_not_fit_is_listed_for_all_parts_at_once(published: Path, tmp_path: Path) -> None:
    denoising = torch.load(published / "denoising_unet.pth")
    gone = [name for name in denoising if name.startswith("up_blocks.1.")]
    torch.save({name: tensor for name, tensor in denoising.items() if name not in gone}, published / "denoising_unet.pth")
    guider = torch.load(published / "pose_guider.pth")
    torch.save({**guider, "surplus": torch.ones(1), "scale": torch.ones(7)}, published / "pose_guider.pth")
    with pytest.raises(MisfitError) as caught:
        added(ModelRegistry(tmp_path / "models"), "broken", published, allow_pickle=True)
    assert caught.value.code == "weights_do_not_fit"
    assert "denoising_unet.pth does not fit DenoisingNet" in caught.value.message
    assert "pose_guider.pth does not fit PoseGuider" in caught.value.message
    assert len(gone) > 20
    listing = "\n".join(caught.value.listing)
    assert all(f"missing {name}" in listing for name in gone)
    assert "extra surplus" in listing
    assert "misshapen scale [7] instead of [1]" in listing


def test_what_does_not_fit_in_the_folders_of_published_weights_is_listed_with_the_rest(published: Path, tmp_path: Path) -> None:
    for part, weight in (("vae", "decoder.conv_in.bias"), ("image_encoder", "visual_projection.weight")):
        (file,) = (published / part).glob("*.safetensors")
        save_file({**load_file(file), weight: torch.ones(7), "surplus": torch.ones(1)}, file, metadata={"format": "pt"})
    guider = torch.load(published / "pose_guider.pth")
    torch.save({**guider, "scale": torch.ones(7)}, published / "pose_guider.pth")
    with pytest.raises(MisfitError) as caught:
        added(ModelRegistry(tmp_path / "models"), "broken", published, allow_pickle=True)
    assert [line.removeprefix(f"{published}/") for line in caught.value.listing] == [
        "vae: extra surplus",
        "vae: misshapen decoder.conv_in.bias [7] instead of [8]",
        "image_encoder: extra surplus",
        "image_encoder: misshapen visual_projection.weight [7] instead of [16, 16]",
        "pose_guider.pth: misshapen scale [7] instead of [1]",
    ]


def test_damaged_and_foreign_pipelines_are_refused_and_leave_nothing_behind(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")

    def changed(name: str, file: str, change: object) -> Path:
        folder = tmp_path / name
        presets.build(TINY).save_pretrained(folder)
        change(folder / file)  # type: ignore[operator]
        return folder

    weights = "denoising_net/diffusion_pytorch_model.safetensors"

    def not_finite(path: Path) -> None:
        tensors = load_file(path)
        tensors["conv_in.bias"][0] = float("nan")
        save_file(tensors, path, metadata={"format": "pt"})

    assert code_of(registry, changed("cut", weights, lambda path: path.write_bytes(path.read_bytes()[:-50]))) == "model_damaged"
    assert code_of(registry, changed("nan", weights, not_finite)) == "weights_not_finite"
    other = changed(
        "other", "model_index.json", lambda path: path.write_text(path.read_text().replace("HeadSwapPipeline", "Other"))
    )
    assert code_of(registry, other) == "model_wrong_kind"
    assert code_of(registry, changed("gone", weights, Path.unlink)) == "model_missing"
    assert code_of(registry, changed("json", "vae/config.json", lambda path: path.write_text("{"))) == "model_damaged"
    no_heads = changed("heads", "denoising_net/config.json", lambda path: path.write_text('{"heads": 0}'))
    assert code_of(registry, no_heads) == "weights_do_not_fit"
    schedule = "scheduler/scheduler_config.json"
    assert (
        code_of(registry, changed("schedule", schedule, lambda path: path.write_text('{"beta_schedule": 1}'))) == "model_damaged"
    )
    assert code_of(registry, tmp_path / "nowhere") == "model_missing"
    assert code_of(registry, saved / "model_index.json") == "model_wrong_kind"
    (tmp_path / "empty").mkdir()
    assert code_of(registry, tmp_path / "empty") == "model_missing"


def test_how_a_pipeline_wants_to_be_sampled_is_on_record_and_part_of_its_digest(tmp_path: Path) -> None:
    registry, folder = ModelRegistry(tmp_path / "models"), tmp_path / "saved"
    presets.build(TINY).save_pretrained(folder)
    plain = added(registry, "mine", folder)
    assert plain.sampling == {}
    write_sampling(folder, {"window": 8, "overlap": 2, "guidance_scale": 1.5})
    found = added(registry, "mine", folder)
    assert found.sampling == {"window": 8, "overlap": 2, "guidance_scale": 1.5}
    assert found.digest != plain.digest
    assert ModelRegistry(tmp_path / "models").pipelines["mine"] == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"window": 8, "overlap": 8}', "overlap 8 must be less than window 8"),
        ('{"steps": 0}', "steps: Input should be greater than or equal to 1"),
        ('{"precision": "float16", "steps": 5}', "'precision': not for a pipeline to say"),
        ('{"guidance_scale": NaN}', "guidance_scale: Input should be a finite number"),
        ("[" * 100_000, "does not say how the pipeline is sampled"),
        ("[8]", "no table of names and values"),
        ("{", "does not say how the pipeline is sampled"),
    ],
)
def test_a_pipeline_that_cannot_be_sampled_as_it_wants_is_refused(tmp_path: Path, text: str, told: str) -> None:
    folder = tmp_path / "saved"
    presets.build(TINY).save_pretrained(folder)
    (folder / "sampling.json").write_text(text)
    with pytest.raises(ModelError, match=told) as caught:
        added(ModelRegistry(tmp_path / "models"), "mine", folder)
    assert caught.value.code == "model_damaged"
    assert str(folder / "sampling.json") in caught.value.message


def test_a_record_that_says_more_than_a_pipeline_may_is_refused(tmp_path: Path, saved: Path) -> None:
    added(ModelRegistry(tmp_path / "models"), "mine", saved)
    record = tmp_path / "models" / "mine" / RECORD
    assert "sampling" not in json.loads(record.read_text())  # earlier versions know no such word
    for wanted in ({"compile": True}, [8], {"steps": 0}):
        record.write_text(json.dumps({**json.loads(record.read_text()), "sampling": wanted}))
        with pytest.raises(UsageError, match="cannot be read"):
            ModelRegistry(tmp_path / "models")


def test_a_licence_is_given_or_stated_by_the_model_card(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    with pytest.raises(UsageError, match="licence"):
        added(registry, "silent", saved, Terms())
    folder = tmp_path / "carded"
    presets.build(TINY).save_pretrained(folder)
    for front, expected in (
        ("license: apache-2.0", ("apache-2.0", True)),
        ("license: research only", ("research only", False)),
        ("license: ours\ncommercial: true", ("ours", True)),
        ("license: ours\ncommercial: 'no'", ("ours", False)),
        ("license: [mit]", ("mit", True)),
    ):
        (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
        found = added(registry, "carded", folder, Terms())
        assert (found.licence, found.commercial) == expected
    assert (registry.require("carded") / "README.md").is_file()


def test_a_pipeline_whose_files_change_later_is_damaged(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    added(registry, "mine", saved)
    path = registry.require("mine") / "vae" / "config.json"
    path.write_text(path.read_text() + " ")
    for call in (registry.path, registry.digest, registry.require, ModelRegistry(tmp_path / "models").path):
        with pytest.raises(ModelError, match="not the one on record") as caught:
            call("mine")
        assert caught.value.code == "model_damaged"
    added(registry, "mine", saved)
    registry.require("mine")


def test_names_of_other_models_and_odd_names_are_refused(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    for name in ("lama", "Mine", "../mine", ""):
        with pytest.raises(UsageError):
            added(registry, name, saved)


def test_commercial_runs_refuse_what_forbids_it(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    added(registry, "research", saved, Terms("research only"))
    with pytest.raises(ModelError, match="research only"):
        registry.refuse_non_commercial(["research"])


def test_pipelines_that_ship_are_there_and_give_way_to_ones_of_that_name(saved: Path, tmp_path: Path) -> None:
    shipped = ModelRegistry(tmp_path / "shipped")
    added(shipped, "headswap-demo", saved, Terms("MIT"))
    registry = ModelRegistry(tmp_path / "models", shipped.folder)
    assert registry.require("headswap-demo") == shipped.folder / "headswap-demo"
    assert not (tmp_path / "models").exists(), "asking writes nothing"
    added(registry, "headswap-demo", saved, Terms("mine"))
    assert registry.pipelines["headswap-demo"].licence == "mine"


def test_a_record_that_cannot_be_read_is_named(saved: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    added(registry, "mine", saved)
    (tmp_path / "models" / "mine" / RECORD).write_text("{}")
    with pytest.raises(UsageError, match=RECORD):
        ModelRegistry(tmp_path / "models")
