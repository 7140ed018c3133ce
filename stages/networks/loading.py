"""Weights from files into networks. What does not fit is listed, never swallowed; pickles are refused unless allowed."""

from __future__ import annotations

import inspect
import json
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.configuration_utils import FrozenDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

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

_KINDS: dict[str, tuple[Any, ...]] = {
    "vae": (AutoencoderKL, AutoencoderTiny),
    "image_encoder": (ImageEncoder,),
    "appearance_net": (AppearanceNet,),
    "denoising_net": (DenoisingNet,),
    "pose_guider": (pose_guider.PoseGuider, pose_guider.SingleScalePoseGuider),
}
"""Networks of a pipeline, and the classes that each may be of."""

_SHOWN = 60
"""Characters of a value in a message."""

PRECISIONS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Those that weights may be stored in, by their names in safetensors. Quantised ones mean nothing without their scales."""


class MisfitError(ModelError):
    """Weights that do not fit a network, alone or together with what else is wrong.

    Attributes:
        listing: a line for every weight that is missing, too much or of another shape; the message names the first of them.
    """

    def __init__(self, message: str, listing: Sequence[str], code: str = "weights_do_not_fit", remedy: str = _REMEDY) -> None:
        super().__init__(code, message, remedy)
        self.listing = tuple(listing)


def together(errors: Sequence[ModelError]) -> ModelError:
    """Several errors as one, under the code of the first, with the listings of all."""
    if len(errors) == 1:
        return errors[0]
    message = " ".join(error.message for error in errors)
    remedies = " ".join(dict.fromkeys(error.remedy for error in errors if error.remedy))
    if any(isinstance(error, MisfitError) for error in errors):
        listing = [line for error in errors if isinstance(error, MisfitError) for line in error.listing]
        return MisfitError(message, listing, errors[0].code, remedies)
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
    misfits = _misfits(_shapes(expected), _shapes(weights))
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
    folder: Path,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | None = None,
    *,
    allow_pickle: bool = False,
) -> HeadSwapPipeline:
    """A saved ``HeadSwapPipeline``, checked: ``from_pretrained`` alone lets missing weights pass.

    Args:
        folder: made by ``save_pretrained``.
        dtype: of all networks; None: each as it is stored.
        device: that each is moved to as soon as it is read, so that the machine's own memory never holds more than one; default:
            they stay where they are.
        allow_pickle: take parts whose weights are pickles (``pickled_weights``), of which only the weights are read.

    Raises:
        ModelError: ``model_missing``, ``model_pickle``, ``model_damaged``, ``model_wrong_kind``, ``weights_do_not_fit`` (also
            where its parts do not fit together), ``weights_precision``, ``weights_not_finite``; what is wrong with all of its
            parts, under the code of the first.
    """
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") != "HeadSwapPipeline":
        raise ModelError(
            "model_wrong_kind",
            f"{folder} holds no HeadSwapPipeline but {index.get('_class_name')}.",
            "Only what HeadSwapPipeline.save_pretrained wrote, or the files of AniPortrait or AnimateAnyone, can be used.",
        )
    parts: dict[str, Any] = {}
    problems: list[ModelError] = []
    for name, allowed in _KINDS.items():
        try:
            part = load_component(_kind_of(folder, index, name, allowed), folder / name, dtype, allow_pickle=allow_pickle)
            parts[name] = part if device is None else part.to(device)
        except ModelError as error:
            problems.append(error)
    try:
        parts["scheduler"] = _scheduler(folder, _named(index, "scheduler"))
    except ModelError as error:
        problems.append(error)
    factor = parts["vae"].config.get("scaling_factor") if "vae" in parts else 1
    if not isinstance(factor, int | float) or not factor > 0:
        problems.append(ModelError("model_damaged", f"{folder}: the scaling_factor of the VAE is {factor!r}.", "Copy it again."))
    if parts.keys() >= _KINDS.keys():
        try:
            check_fits_together(parts, str(folder))
        except ModelError as error:
            problems.append(error)
    if problems:
        raise together(problems)
    return HeadSwapPipeline(**parts)


def _kind_of(folder: Path, index: Mapping[str, Any], part: str, allowed: Iterable[Any]) -> Any:
    named = _named(index, part)
    kind = next((kind for kind in allowed if kind.__name__ == named), None)
    if kind is None:
        raise ModelError("model_wrong_kind", f"{folder}: {part} is of the unknown kind {named!r}.", _REMEDY)
    return kind


def pickled_weights(folder: Path) -> list[Path]:
    """The files of a saved pipeline's parts whose weights are pickles: those without any in safetensors."""
    parts = [folder / name for name in _KINDS if not any((folder / name).glob("*.safetensors"))]
    return [file for part in parts for file in sorted(part.glob("*.bin"))]


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
        dtype: of its weights; None: as they are stored (``common_dtype``).
        allow_pickle: take weights that are a pickle (loaded without running anything in it).

    Raises:
        ModelError: see ``load_pipeline``.
    """
    described = folder / "config.json"
    config = _fields(kind, described)
    safe = sorted(folder.glob("*.safetensors"))
    for file in safe:
        check_weights(file, "safetensors")
    if not safe and not allow_pickle:
        raise _without_safetensors(folder)
    stored: dict[str, _Stored] = {}
    for file in _weight_files(kind, folder, "safetensors" if safe else "bin"):
        stored |= _stored(file)
    expected = _described(kind, config, described)
    stored = _as_loaded(expected, stored)
    _check_fit(folder, kind, config, _misfits(_shapes(expected.state_dict()), _shapes(stored)))
    dtypes = {name: tensor.dtype for name, tensor in stored.items()}
    _check_precisions(dtypes, expected.state_dict(), str(folder))
    dtype = dtype or common_dtype(it for it in dtypes.values() if not isinstance(it, str))
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()  # it warns of entries that its own networks write into their configuration
    try:
        network, report = kind.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=bool(safe), output_loading_info=True
        )
    except Exception as error:  # what the looks above have let pass
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")[:300]  # the library's advice comes after it
        raise ModelError("weights_do_not_fit", f"{folder} cannot be loaded as {kind.__name__}: {reason}.", _REMEDY) from error
    # The library has the last word on what it has read: an index of shards may say other than they hold.
    misfits = {
        "missing": sorted(report["missing_keys"]),
        "extra": sorted(name for name in report["unexpected_keys"] if not _is_no_weight(name)),
        "misshapen": [f"{name} {list(there)} instead of {list(wanted)}" for name, there, wanted in report["mismatched_keys"]],
    }
    _check_fit(folder, kind, config, misfits)
    check_finite(network.state_dict(), str(folder))
    if isinstance(network, diffusers.ConfigMixin):
        # Where it was read from is no property of a network: it would be saved with it, and be part of its digest.
        network._internal_dict = FrozenDict({key: value for key, value in network.config.items() if key != "_name_or_path"})
    return network.eval()


def _without_safetensors(folder: Path) -> ModelError:
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if not pickles:
        return ModelError("model_missing", f"{folder} holds no weights in safetensors.", "Copy or download it again.")
    return ModelError(
        "model_pickle",
        f"{folder} holds no weights in safetensors but {_list(pickles)}: Python pickles, which can hold code; they are refused.",
        "Convert them: `headswap models add NAME FOLDER --allow-pickle` takes a whole pipeline, reads their weights and nothing "
        "else, and registers safetensors.",
    )


def _weight_files(kind: Any, folder: Path, suffix: str) -> list[Path]:
    """The files that ``from_pretrained`` reads: one, or the shards that an index names. Others may lie beside them.

    Raises:
        ModelError: ``model_missing`` with all that are not there; ``model_damaged`` where the index names no files.
    """
    transformer = issubclass(kind, transformers.PreTrainedModel)
    stem = "diffusion_pytorch_model" if not transformer else "model" if suffix == "safetensors" else "pytorch_model"
    whole, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
    if whole.is_file() and (transformer or not index.is_file()):
        return [whole]
    if not index.is_file():
        raise ModelError(
            "model_missing", f"{folder} lacks {whole.name}.", "Weights under another name are not read: rename them."
        )
    content = _read_json(index)
    places = content.get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not names or not isinstance(content.get("metadata"), dict) or any(Path(name).name != name for name in names):
        raise ModelError("model_damaged", f"The file {index} is no index of files in its folder.", "Copy it again.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError("model_missing", f"{folder} lacks {_list(missing)}, which {index.name} names.", "Copy it again.")
    return [folder / name for name in names]


class _Stored(NamedTuple):
    """What a file tells of a tensor before its numbers.

    Attributes:
        dtype: what is none of ``PRECISIONS`` is called as safetensors does.
        shape: its lengths.
    """

    dtype: torch.dtype | str
    shape: torch.Size


def _stored(file: Path) -> dict[str, _Stored]:
    """The tensors of a file by name; of safetensors the header alone is read, pickles are mapped."""
    if file.suffix != ".safetensors":
        weights = read_state_dict(file, allow_pickle=True)
        return {name: _Stored(tensor.dtype, tensor.shape) for name, tensor in weights.items()}
    found: dict[str, _Stored] = {}
    try:
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118  (it is no mapping)
                tensor = content.get_slice(name)
                dtype = tensor.get_dtype()
                found[name] = _Stored(PRECISIONS.get(dtype, dtype), torch.Size(tensor.get_shape()))
    except SafetensorError as error:
        raise ModelError("model_damaged", f"The file {file} is damaged: {error}.", "Copy or download it again.") from error
    return found


def _as_loaded(network: Any, stored: Mapping[str, _Stored]) -> dict[str, _Stored]:
    """Stored tensors by the names they are loaded under: both libraries still read what they once wrote under others."""
    if isinstance(network, transformers.PreTrainedModel):
        known, prefix = network.state_dict(), network.base_model_prefix
        renamings = [change for change in get_model_conversion_mapping(network) if isinstance(change, WeightRenaming)]
        renamed: dict[str, _Stored] = {}
        for name, tensor in stored.items():
            new, _ = rename_source_key(name, renamings, [], prefix, known)
            renamed[name if new not in known and name in known else new] = tensor
    else:
        renamed = dict(stored)
        network._fix_state_dict_keys_on_load(renamed)
    return {name: tensor for name, tensor in renamed.items() if not _is_no_weight(name)}


def _is_no_weight(name: str) -> bool:
    """Whether it is the table of positions in old CLIP checkpoints."""
    return name.endswith("position_ids")


def _fields(kind: Any, file: Path) -> dict[str, Any]:
    """The part of a configuration that is of this kind of network: CLIP's may describe its text encoder as well."""
    config = _read_json(file)
    part = kind.config_class.base_config_key if issubclass(kind, transformers.PreTrainedModel) else ""
    own = config.get(part, config)
    if not isinstance(own, dict):
        raise _undescribed(kind, file, _shown({part: own}, ""))
    return own


def _made(kind: Any, config: Mapping[str, Any]) -> nn.Module:
    """A network on the meta device: names and shapes without memory. Fails in as many ways as networks use their sizes."""
    with torch.device("meta"):
        if issubclass(kind, transformers.PreTrainedModel):
            return kind(kind.config_class.from_dict(dict(config)))  # type: ignore[no-any-return]
        return kind.from_config(dict(config))  # type: ignore[no-any-return]


def _described(kind: Any, config: Mapping[str, Any], file: Path) -> nn.Module:
    """The network that a configuration describes, on the meta device; ``ModelError`` with the fields that describe none."""
    if config.get("quantization_config"):
        raise ModelError(
            "weights_precision",
            f"{file} asks for quantised weights (quantization_config), which are not read.",
            "Convert them to float16, bfloat16, float32 or float64.",
        )
    try:
        return _made(kind, config)
    except Exception as error:
        raise _undescribed(kind, file, _faults(kind, config)) from error


def _undescribed(kind: Any, file: Path, faults: str) -> MisfitError:
    return MisfitError(f"{file} describes no {kind.__name__}: {faults}.", [f"{file}: {faults}"])


def _other_class(kind: Any, config: Mapping[str, Any]) -> str:
    """The field of a configuration that names another class than this; empty where none does."""
    transformer = issubclass(kind, transformers.PreTrainedModel)
    field, own = ("model_type", kind.config_class.model_type) if transformer else ("_class_name", kind.__name__)
    return "" if config.get(field, own) == own else _shown({field: config[field]}, "")


def _faults(kind: Any, config: Mapping[str, Any]) -> str:
    """Which fields of a configuration that describes no network are at fault, with their values."""
    if other := _other_class(kind, config):
        return other
    if issubclass(kind, transformers.PreTrainedModel):
        defaults = kind.config_class().to_dict()
    else:
        defaults = {name: it.default for name, it in inspect.signature(kind.__init__).parameters.items()}
    given = {name: value for name, value in config.items() if name in defaults}
    unlike = {name: value for name, value in given.items() if not _is_like(value, defaults[name])}
    if unlike:
        return _shown(unlike, ", ")
    lengths = {len(value) for value in given.values() if isinstance(value, list)}
    suspects = {
        name: value
        for name, value in given.items()
        if any(_works(kind, {**config, name: other}) for other in _others(value, defaults[name], lengths))
    }
    if suspects:
        return _shown(suspects, " or ")
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    return f"these do not go together: {_shown(changed, ', ')}"


def _is_like(value: Any, default: Any) -> bool:
    """Whether a field's value is of its default's type, and above zero where that is. A list may be where a number is."""
    if default is None or default is inspect.Parameter.empty:
        return True
    if isinstance(value, list):
        examples = default[:1] if isinstance(default, tuple | list) else (default,)
        return bool(value) and all(_is_like(item, example) for item in value for example in examples)
    if isinstance(default, int | float) and not isinstance(default, bool):
        number = isinstance(value, int if isinstance(default, int) else int | float) and not isinstance(value, bool)
        return number and (value > 0 or default <= 0)
    return type(value) is type(default)


def _others(value: Any, default: Any, lengths: Iterable[int]) -> Iterator[Any]:
    """Values that a field could have instead: if the network can be made with one of them, the field is at fault."""
    if default is not inspect.Parameter.empty:
        yield default
    if isinstance(value, int):
        yield 1
    if isinstance(value, list) and value:
        for element in (value[0], *(default[:1] if isinstance(default, tuple | list) else ())):
            yield from ([element] * length for length in lengths)


def _works(kind: Any, config: Mapping[str, Any]) -> bool:
    try:
        _made(kind, config)
    except Exception:  # noqa: BLE001  (it fails in any way; which is told of the fields as they are)
        return False
    return True


def _shown(fields: Mapping[str, Any], between: str) -> str:
    """Fields with their values."""
    shown = []
    for name, value in fields.items():
        text = json.dumps(value)
        shown.append(f"{name} is {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}")
    return between.join(shown)


def _shapes(tensors: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _misfits(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> dict[str, list[str]]:
    return {
        "missing": sorted(expected.keys() - found.keys()),
        "extra": sorted(found.keys() - expected.keys()),
        "misshapen": [
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in sorted(expected.items())
            if name in found and found[name] != shape
        ],
    }


def _check_fit(folder: Path, kind: Any, config: Mapping[str, Any], misfits: Mapping[str, Sequence[str]]) -> None:
    """``MisfitError`` with all misfits of a saved network; where its configuration is another network's, with that alone."""
    if any(misfits.values()):
        other = _other_class(kind, config)
        raise _undescribed(kind, folder / "config.json", other) if other else _misfit(str(folder), kind.__name__, misfits)


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
