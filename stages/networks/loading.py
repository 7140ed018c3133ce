"""Weights from files into networks. What does not fit is listed, never swallowed; pickles are refused unless allowed."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.configuration_utils import FrozenDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from schemas.problems import ModelError
from stages.networks import pose_guider
from stages.networks import vae as autoencoder
from stages.networks.appearance_net import AppearanceNet
from stages.networks.denoising_net import DenoisingNet
from stages.networks.image_encoder import ImageEncoder
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.schedulers import ExactDDIMScheduler
from stages.networks.weights import check_weights

_LISTED = 20
"""Names of one kind in a message; the rest is counted."""

LATENT_PIXELS = 8
"""Pixels of a side that one pixel of the latents stands for; the PoseGuiders are built for it."""

Network = TypeVar("Network", bound=nn.Module)

_REMEDY = "Check that it belongs to this architecture and these sizes."

PRECISIONS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Those that weights may be stored in, by their names in safetensors. Quantised ones mean nothing without their scales."""


class MisfitError(ModelError):
    """Weights that do not fit a network.

    Attributes:
        listing: a line for every weight that is missing, too much or of another shape; the message names the first of them.
    """

    def __init__(self, message: str, listing: Sequence[str]) -> None:
        super().__init__("weights_do_not_fit", message, _REMEDY)
        self.listing = tuple(listing)


def together(errors: Sequence[ModelError]) -> ModelError:
    """Several errors as one, under the code of the first."""
    if len(errors) == 1:
        return errors[0]
    message = " ".join(error.message for error in errors)
    remedies = " ".join(dict.fromkeys(error.remedy for error in errors if error.remedy))
    listing = [line for error in errors if isinstance(error, MisfitError) for line in error.listing]
    if isinstance(errors[0], MisfitError):
        return MisfitError(message, listing)
    return ModelError(errors[0].code, message, remedies)


def read_state_dict(path: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Tensors of a file by name, on the CPU: mapped, so that they take memory as they are read, and only while there is enough.

    Args:
        path: safetensors, or a checkpoint of ``torch.save``: a pickle, of which only the weights are loaded. A wrapping
            ``state_dict`` and the prefix ``module.`` of distributed training are taken off.
        allow_pickle: take checkpoints of ``torch.save``.

    Raises:
        ModelError: ``model_missing``, ``model_pickle``, ``model_damaged``, ``model_wrong_kind``.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise ModelError("model_missing", f"The file {path} cannot be read: {error.strerror}.", "Check the path.") from error
    if head[:2] not in (b"PK", b"\x80\x02"):
        check_weights(path, "safetensors")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError("model_damaged", f"The file {path} is damaged: {error}.", "Copy or download it again.") from error
    if not allow_pickle:
        raise ModelError(
            "model_pickle",
            f"The file {path} is a Python pickle, which can hold code; it is refused.",
            "Convert it to safetensors, or allow pickles explicitly: then its weights, and nothing else, are loaded.",
        )
    try:
        # Checkpoints of before PyTorch 1.6 are no zip archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=head[:2] == b"PK")
    except pickle.UnpicklingError as error:
        raise ModelError(
            "model_pickle",
            f"The file {path} holds more than weights, or is damaged; it is refused.",
            "Convert it to safetensors.",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        # Its first sentence: PyTorch goes on at length about what may have happened.
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".") if str(error) else type(error).__name__
        raise ModelError("model_damaged", f"The file {path} is damaged: {reason}.", "Copy or download it again.") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(name, str) and isinstance(it, Tensor) for name, it in content.items()):
        raise ModelError(
            "model_wrong_kind", f"The file {path} holds no table of weights.", "Check that it is the file you meant."
        )
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def load_weights(
    network: Network, weights: Mapping[str, Tensor], what: str, dtype: torch.dtype | None = torch.float32
) -> Network:
    """Put weights into a network, which may have been built on the meta device.

    Args:
        network: changed in place; its tensors are replaced.
        weights: exactly its parameters and buffers.
        what: names the weights in messages: a file.
        dtype: to which floating point tensors are converted; None: the one that they all have (``common_dtype``), and tensors
            that are mapped from a file stay so.

    Raises:
        ModelError: ``weights_do_not_fit`` with the names of all that is missing, too much or of another shape;
            ``weights_precision`` with the names of those in none of ``PRECISIONS``; ``weights_not_finite`` with the names of
            tensors that hold NaN or infinity.
    """
    expected = network.state_dict()
    misfits = _misfits({name: tensor.shape for name, tensor in expected.items()}, weights)
    if any(misfits.values()):
        raise _misfit(what, type(network).__name__, misfits)
    _check_precisions({name: tensor.dtype for name, tensor in weights.items()}, expected, what)
    check_finite(weights, what)
    dtype = dtype or common_dtype(tensor.dtype for tensor in weights.values())
    converted = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    network.load_state_dict(converted, assign=True)
    return network


def _check_precisions(stored: Mapping[str, torch.dtype | str], network: Mapping[str, Tensor], what: str) -> None:
    """``ModelError`` (``weights_precision``) that names the stored tensors in no precision that can be computed with.

    Args:
        stored: precisions by name; those that PyTorch or this program have no word for as safetensors calls them.
        network: its state. Integers belong where it has integers, such as counters.
        what: names the weights.
    """
    floating = {name for name, tensor in network.items() if tensor.is_floating_point()}
    bad = [
        f"{name} ({str(dtype).removeprefix('torch.')})"
        for name, dtype in stored.items()
        if dtype not in PRECISIONS.values() and (name in floating or not _is_integer(dtype))
    ]
    if bad:
        raise ModelError(
            "weights_precision",
            f"{what} holds weights in a precision that is not read: {_list(bad)}.",
            "Convert them to float16, bfloat16, float32 or float64.",
        )


def _is_integer(dtype: torch.dtype | str) -> bool:
    if isinstance(dtype, str):
        return dtype.startswith(("I", "U", "BOOL"))
    return not (dtype.is_floating_point or dtype.is_complex)


def check_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """``ModelError`` (``weights_not_finite``) that names the tensors that hold NaN or infinity."""
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if bad:
        raise ModelError(
            "weights_not_finite", f"{what} holds NaN or infinity in {_list(bad)}.", "The training that made it has failed."
        )


def _is_finite(tensor: Tensor) -> bool:
    """By the extremes, which a NaN takes over: fifteen times as fast as asking every number."""
    return tensor.numel() == 0 or all(math.isfinite(extreme.item()) for extreme in tensor.aminmax())


def common_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The half precision that all floating point tensors have, else float32: what loses none of half precision, and no space."""
    found = {dtype for dtype in dtypes if dtype.is_floating_point}
    return found.pop() if found in ({torch.float16}, {torch.bfloat16}) else torch.float32


def load_pipeline(
    folder: Path, dtype: torch.dtype | None = torch.float32, device: torch.device | None = None
) -> HeadSwapPipeline:
    """A saved ``HeadSwapPipeline``, checked: ``from_pretrained`` alone lets missing weights pass.

    Args:
        folder: made by ``save_pretrained``.
        dtype: of all networks; None: each as it is stored.
        device: that each is moved to as soon as it is read, so that the machine's own memory never holds more than one; default:
            they stay where they are.

    Raises:
        ModelError: ``model_missing``, ``model_damaged``, ``model_wrong_kind``, ``weights_do_not_fit`` (also where its parts do
            not fit together), ``weights_precision``, ``weights_not_finite``.
    """
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") != "HeadSwapPipeline":
        raise ModelError(
            "model_wrong_kind",
            f"{folder} holds no HeadSwapPipeline but {index.get('_class_name')}.",
            "Only what HeadSwapPipeline.save_pretrained wrote, or the files of AniPortrait or AnimateAnyone, can be used.",
        )
    kinds: dict[str, tuple[Any, ...]] = {
        "vae": (AutoencoderKL, AutoencoderTiny),
        "image_encoder": (ImageEncoder,),
        "appearance_net": (AppearanceNet,),
        "denoising_net": (DenoisingNet,),
        "pose_guider": (pose_guider.PoseGuider, pose_guider.SingleScalePoseGuider),
    }
    parts: dict[str, Any] = {}
    for name, allowed in kinds.items():
        named = _named(index, name)
        kind = next((kind for kind in allowed if kind.__name__ == named), None)
        if kind is None:
            raise ModelError("model_wrong_kind", f"{folder}: {name} is of the unknown kind {named!r}.", _REMEDY)
        part = load_component(kind, folder / name, dtype)
        parts[name] = part if device is None else part.to(device)
    factor = parts["vae"].config.get("scaling_factor")
    if not isinstance(factor, int | float) or not factor > 0:
        raise ModelError("model_damaged", f"{folder}: the scaling_factor of the VAE is {factor!r}.", "Copy it again.")
    check_fits_together(parts, str(folder))
    parts["scheduler"] = _scheduler(folder, _named(index, "scheduler"))
    return HeadSwapPipeline(**parts)


def check_fits_together(parts: Mapping[str, Any], what: str) -> None:
    """``MisfitError`` (``weights_do_not_fit``) with everything in which the networks of a pipeline do not belong together.

    Each may be whole and still be another pipeline's; without this look it would fail in the midst of a job.

    Args:
        parts: ``vae``, ``image_encoder``, ``appearance_net``, ``denoising_net`` and ``pose_guider``.
        what: names the pipeline.
    """
    vae, encoder, guider = parts["vae"].config, parts["image_encoder"].config, parts["pose_guider"]
    appearance, denoising = parts["appearance_net"], parts["denoising_net"]
    latents, seen = denoising.config.out_channels, denoising.config.in_channels
    tokens, widths = denoising.config.token_channels, tuple(denoising.config.channels)
    problems = [
        f"{part} {found}, not {wanted}"
        for part, found, wanted in (
            ("token_channels of appearance_net are", appearance.config.token_channels, tokens),
            ("projection_dim of image_encoder is", encoder.projection_dim, tokens),
            ("num_channels of image_encoder are", encoder.num_channels, 3),
            ("in_channels of vae are", vae.in_channels, 3),
            ("out_channels of vae are", vae.out_channels, 3),
            ("latent_channels of vae are", vae.latent_channels, latents),
            ("pixels of a latent pixel's side in vae are", autoencoder.scale_factor(parts["vae"]), LATENT_PIXELS),
            ("in_channels of appearance_net are", appearance.config.in_channels, latents),
            *((("in_channels of denoising_net are", seen, 2 * latents),) if seen != latents else ()),
            *_pose_sizes(guider, widths),
        )
        if found != wanted
    ]
    there, wanted = _places(appearance), _places(denoising)
    for place in sorted(there.keys() | wanted.keys()):
        if there.get(place) != wanted.get(place):
            found = f"has {there[place]} channels" if place in there else "is missing"
            needed = f"{wanted[place]} in denoising_net" if place in wanted else "there is none in denoising_net"
            problems.append(f"{place} of appearance_net {found}; {needed}")
    if problems:
        message = f"The parts of {what} do not belong together: {'; '.join(problems[:_LISTED])}."
        raise MisfitError(message, [f"{what}: {problem}" for problem in problems])


def _pose_sizes(guider: Any, widths: tuple[int, ...]) -> list[tuple[str, Any, Any]]:
    """Sizes of a PoseGuider beside those that the DenoisingNet adds its features to."""
    if isinstance(guider, pose_guider.PoseGuider):
        return [("channels of pose_guider are", tuple(guider.config.channels), widths)]
    return [
        ("out_channels of pose_guider are", guider.config.out_channels, widths[0]),
        ("pixels of a latent pixel's side in pose_guider are", 2 ** (len(guider.config.channels) - 1), LATENT_PIXELS),
    ]


def _places(network: AppearanceNet | DenoisingNet) -> dict[str, int]:
    """Channels of each spatial transformer, whose features one network hands to the other, by its place."""
    return {place: int(transformer.norm.num_channels) for place, transformer in network.transformers()}


def _named(index: Mapping[str, Any], part: str) -> str:
    """The class of a part, which the index names beside its library; nothing where it does not."""
    entry = index.get(part)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else ""


def _scheduler(folder: Path, name: str) -> Any:
    kind: Any = getattr(diffusers, name, None) if name else None
    if name == ExactDDIMScheduler.__name__:
        kind = ExactDDIMScheduler
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin) and hasattr(kind, "from_config")
    if not known:
        raise ModelError("model_wrong_kind", f"{folder}: the scheduler is of the unknown kind {name!r}.", _REMEDY)
    file = folder / "scheduler" / "scheduler_config.json"
    config = _read_json(file)
    try:
        return getattr(kind, "from_config")(config)  # noqa: B009  (the checks above hide the method from the type checker)
    except Exception as error:  # each of diffusers' schedulers fails in its own way at what it does not know
        reason = " ".join(str(error).split())[:300]
        raise ModelError("model_damaged", f"{file} makes no {name}: {reason}.", "Copy it again.") from error


def load_component(kind: Any, folder: Path, dtype: torch.dtype | None, *, allow_pickle: bool = False) -> Any:
    """A network that ``save_pretrained`` of diffusers or transformers has written, with all that does not fit as an error.

    Args:
        kind: its class.
        folder: with its configuration and weights.
        dtype: of its weights; None: as they are stored (``common_dtype``; pickles as float32).
        allow_pickle: take weights that are a pickle (loaded without running anything in it).

    Raises:
        ModelError: see ``load_pipeline``.
    """
    files = sorted(folder.glob("*.safetensors"))
    _read_json(folder / "config.json")
    for file in files:
        check_weights(file, "safetensors")
    if not files and not allow_pickle:
        code = "model_pickle" if any(folder.glob("*.bin")) else "model_missing"
        raise ModelError(code, f"{folder} holds no weights in safetensors.", "Convert them, or allow pickles explicitly.")
    stored: dict[str, torch.dtype | str] = {}
    for file in files or sorted(folder.glob("*pytorch_model*.bin")):
        stored |= _stored_dtypes(file)
    dtype = dtype or (common_dtype(it for it in stored.values() if not isinstance(it, str)) if files else torch.float32)
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()  # it warns of entries that its own networks write into their configuration
    try:
        network, report = kind.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=bool(files), output_loading_info=True
        )
    except Exception as error:  # a configuration can be wrong in as many ways as networks divide and index by it
        reason = " ".join(str(error).split())[:500]
        raise ModelError("weights_do_not_fit", f"{folder} cannot be loaded as {kind.__name__}: {reason}.", _REMEDY) from error
    # The table of positions in old CLIP checkpoints is no weight.
    misfits = {
        "missing": sorted(report["missing_keys"]),
        "extra": sorted(name for name in report["unexpected_keys"] if not name.endswith("position_ids")),
        "misshapen": [f"{name} {list(there)} instead of {list(wanted)}" for name, there, wanted in report["mismatched_keys"]],
    }
    if any(misfits.values()):
        raise _misfit(str(folder), kind.__name__, misfits)
    _check_precisions(stored, network.state_dict(), str(folder))
    check_finite(network.state_dict(), str(folder))
    if isinstance(network, diffusers.ConfigMixin):
        # Where it was read from is no property of a network: it would be saved with it, and be part of its digest.
        network._internal_dict = FrozenDict({key: value for key, value in network.config.items() if key != "_name_or_path"})
    return network.eval()


def _stored_dtypes(file: Path) -> dict[str, torch.dtype | str]:
    """Precisions of the tensors of a file by name; of safetensors the header alone is read, pickles are mapped.

    What is none of ``PRECISIONS`` is called as safetensors does.
    """
    if file.suffix != ".safetensors":
        return {name: tensor.dtype for name, tensor in read_state_dict(file, allow_pickle=True).items()}
    try:
        with safe_open(file, "pt") as content:
            names = {name: content.get_slice(name).get_dtype() for name in content.keys()}  # noqa: SIM118  (it is no mapping)
    except SafetensorError as error:
        raise ModelError("model_damaged", f"The file {file} is damaged: {error}.", "Copy or download it again.") from error
    return {name: PRECISIONS.get(dtype, dtype) for name, dtype in names.items()}


def _misfits(expected: Mapping[str, torch.Size], weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    return {
        "missing": sorted(expected.keys() - weights.keys()),
        "extra": sorted(weights.keys() - expected.keys()),
        "misshapen": [
            f"{name} {list(weights[name].shape)} instead of {list(shape)}"
            for name, shape in sorted(expected.items())
            if name in weights and weights[name].shape != shape
        ],
    }


def _misfit(what: str, network: str, misfits: Mapping[str, Sequence[str]]) -> MisfitError:
    problems = [f"{len(names)} {kind}: {_list(names)}" for kind, names in misfits.items() if names]
    listing = [f"{what}: {kind} {name}" for kind, names in misfits.items() for name in names]
    return MisfitError(f"{what} does not fit {network}: {'; '.join(problems)}.", listing)


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError("model_missing", f"The file {path} cannot be read: {error.strerror}.", "Check the path.") from error
    except ValueError as error:
        raise ModelError("model_damaged", f"The file {path} is damaged: it does not parse.", "Copy it again.") from error
    if not isinstance(content, dict):
        raise ModelError("model_damaged", f"The file {path} is damaged: it holds no entries.", "Copy it again.")
    return content
