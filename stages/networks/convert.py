"""Published weights of AniPortrait and AnimateAnyone as a ``HeadSwapPipeline``.

Both were trained to draw a head or body on a plain background. The DenoisingNet here has further input channels for the
background, which begin at zero: a converted network behaves as the published one until it is trained with backgrounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from schemas.problems import ModelError
from stages.networks import presets
from stages.networks.appearance_net import AppearanceNet
from stages.networks.denoising_net import DenoisingNet
from stages.networks.image_encoder import ImageEncoder
from stages.networks.loading import check_fits_together, load_component, load_weights, read_state_dict, together
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.pose_guider import PoseGuider, SingleScalePoseGuider
from stages.networks.presets import Preset
from stages.networks.schedulers import Solver, make_scheduler

Layout = Literal["aniportrait", "animateanyone"]

_OUTPUT_LAYERS = {"conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias"}
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class PublishedFiles:
    """Where the parts of a published model lie.

    Attributes:
        reference_unet, denoising_unet, pose_guider: files of weights.
        motion_module: file of weights, where the denoising UNet's does not hold them.
        vae, image_encoder: folders with ``config.json`` and weights.
    """

    reference_unet: Path
    denoising_unet: Path
    pose_guider: Path
    motion_module: Path | None
    vae: Path
    image_encoder: Path

    @property
    def weights(self) -> list[Path]:
        """All files of weights, also those inside the folders."""
        files = [
            self.reference_unet,
            self.denoising_unet,
            self.pose_guider,
            *([self.motion_module] if self.motion_module else []),
        ]
        inside = [path for folder in (self.vae, self.image_encoder) for path in sorted(folder.glob("*.safetensors"))]
        return files + inside


def find_published(folder: Path) -> PublishedFiles:
    """The parts of a published model in a folder, under the names they are published with.

    Raises:
        ModelError: ``model_missing`` with all that is not there.
    """
    found: dict[str, Path] = {}
    for name in ("reference_unet", "denoising_unet", "pose_guider", "motion_module"):
        for suffix in _SUFFIXES:
            path = folder / f"{name}{suffix}"
            if path.is_file():
                found.setdefault(name, path)
    for name, others in (("vae", ("vae", "sd-vae-ft-mse")), ("image_encoder", ("image_encoder",))):
        for other in others:
            if (folder / other / "config.json").is_file():
                found.setdefault(name, folder / other)
    parts = ("reference_unet", "denoising_unet", "pose_guider", "vae", "image_encoder")
    missing = [name for name in parts if name not in found]
    if missing:
        raise ModelError(
            "model_missing",
            f"The folder {folder} lacks {', '.join(missing)}.",
            "It must hold reference_unet, denoising_unet, pose_guider (files), vae and image_encoder (folders), and "
            "motion_module where the denoising UNet does not hold it.",
        )
    return PublishedFiles(**{name: found[name] for name in parts}, motion_module=found.get("motion_module"))


def layout_of(pose_guider: Mapping[str, Tensor]) -> Layout:
    """Whose PoseGuider the weights are; ``ModelError`` (``weights_do_not_fit``) where they are nobody's."""
    if "conv_layers.0.weight" in pose_guider:
        return "aniportrait"
    if "blocks.0.weight" in pose_guider:
        return "animateanyone"
    raise ModelError(
        "weights_do_not_fit",
        f"The pose guider is neither AniPortrait's nor AnimateAnyone's: it begins with {', '.join(sorted(pose_guider)[:5])}.",
        "Check that it is the file you meant.",
    )


def convert(
    files: PublishedFiles,
    preset: Preset | None = None,
    *,
    allow_pickle: bool = False,
    dtype: torch.dtype | None = torch.float32,
    solver: Solver = "ddim",
) -> HeadSwapPipeline:
    """A pipeline with published weights.

    Args:
        files: see ``find_published``.
        preset: its sizes; default: the preset that is as wide as the weights, normalising as the published scripts do. The kind
            of PoseGuider is taken from the weights.
        allow_pickle: take ``.pth`` files; weights only.
        dtype: of the networks; None: each as it was published, and then its weights stay mapped from its file: converting
            takes next to no memory.
        solver: of the scheduler.

    Raises:
        ModelError: a part is missing, damaged or does not fit; all parts that do not, with the names of their weights.
    """
    problems: list[ModelError] = []

    def tried(make: Callable[[], Any]) -> Any:
        """What it makes, or None and a problem more: all that is wrong is told at once."""
        try:
            return make()
        except ModelError as error:
            problems.append(error)
            return None

    def read(path: Path | None) -> Any:
        return tried(lambda: read_state_dict(path, allow_pickle=allow_pickle)) if path else None

    reference, denoising, motion = read(files.reference_unet), read(files.denoising_unet), read(files.motion_module)
    guider = read(files.pose_guider)
    sizes = preset or _preset_of(denoising or reference or {})
    parts: dict[str, Any] = {
        "vae": tried(lambda: load_component(AutoencoderKL, files.vae, dtype, allow_pickle=allow_pickle)),
        "image_encoder": tried(lambda: load_component(ImageEncoder, files.image_encoder, dtype, allow_pickle=allow_pickle)),
    }
    if reference is not None:
        parts["appearance_net"] = tried(lambda: convert_appearance_net(reference, sizes, str(files.reference_unet), dtype))
    if denoising is not None and (motion is not None or files.motion_module is None):
        both = str(files.denoising_unet) + (f" with {files.motion_module.name}" if files.motion_module else "")
        parts["denoising_net"] = tried(lambda: convert_denoising_net(denoising, motion, sizes, both, dtype))
    if guider is not None:
        parts["pose_guider"] = tried(lambda: convert_pose_guider(guider, sizes, str(files.pose_guider), dtype))
    if problems:
        raise together(problems)
    check_fits_together(parts, str(files.reference_unet.parent))
    return HeadSwapPipeline(**parts, scheduler=make_scheduler(solver))


def _preset_of(unet: Mapping[str, Tensor]) -> Preset:
    first = unet.get("conv_in.weight")
    width = 0 if first is None else len(first)
    preset = next((preset for preset in presets.PRESETS.values() if preset.unet.channels[0] == width), presets.FULL)
    return replace(preset, background=True, pose=replace(preset.pose, normalisation="window"))


def convert_appearance_net(
    weights: Mapping[str, Tensor], preset: Preset, what: str = "reference_unet", dtype: torch.dtype | None = torch.float32
) -> AppearanceNet:
    """An AppearanceNet from a ``reference_unet``, or from a UNet of Stable Diffusion, whose output layers it does not have."""
    with torch.device("meta"):
        network = presets.appearance_net(preset)
    kept = {name: tensor for name, tensor in weights.items() if name not in _OUTPUT_LAYERS}
    return load_weights(network, kept, what, dtype).eval()


def convert_denoising_net(
    weights: Mapping[str, Tensor],
    motion: Mapping[str, Tensor] | None,
    preset: Preset,
    what: str = "denoising_unet",
    dtype: torch.dtype | None = torch.float32,
) -> DenoisingNet:
    """A DenoisingNet from a ``denoising_unet`` and a ``motion_module``.

    Motion modules in ``weights`` come before those in ``motion``, as in the published scripts. Where neither has any the network
    is built without.

    Args:
        weights: with or without motion modules.
        motion: motion modules, or None.
        preset: its sizes. With a background, the first convolution's weights for it are zeros.
        what: names the weights in messages.
        dtype: of the network, see ``load_weights``.
    """
    merged = {**(motion or {}), **weights}
    has_motion = any(".motion_modules." in name for name in merged)
    with torch.device("meta"):
        network = presets.denoising_net(preset, motion=has_motion)
    first = merged.get("conv_in.weight")
    if first is not None and first.ndim == 4 and first.shape[1] < network.config.in_channels:
        background = first.new_zeros(first.shape[0], network.config.in_channels - first.shape[1], *first.shape[2:])
        merged["conv_in.weight"] = torch.cat([first, background], 1)
    return load_weights(network, merged, what, dtype).eval()


def convert_pose_guider(
    weights: Mapping[str, Tensor], preset: Preset, what: str = "pose_guider", dtype: torch.dtype | None = torch.float32
) -> PoseGuider | SingleScalePoseGuider:
    """A PoseGuider of the layout that the weights have.

    What AniPortrait's normalises by, the preset says: ``window`` in ``FULL``, as its published scripts do. How far its running
    statistics are from these, only its published weights can tell.
    """
    scales: Literal["multi", "single"] = "multi" if layout_of(weights) == "aniportrait" else "single"
    pose = replace(preset.pose, scales=scales)
    with torch.device("meta"):
        network = presets.pose_guider(replace(preset, pose=pose))
    return load_weights(network, weights, what, dtype).eval()
