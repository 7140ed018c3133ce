"""A differentiable identity network for L_id, made of an ONNX file; and the aligned face it looks at.

ONNX Runtime computes no gradients. Recognition networks consist of few kinds of operators, so the graph is taken as it is and
each of its nodes is computed by PyTorch. An operator that is not known is named, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.problems import ModelError
from stages.networks.weights import check_weights

SIDE = 112
"""Pixels of the pictures that ArcFace networks see."""

TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Where eyes, nose and corners of the mouth lie in these pictures, counted from the middle of the first pixel (InsightFace)."""

Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[[list[Tensor | None], Attributes], Tensor]


class OnnxNetwork(nn.Module):
    """An ONNX graph with one input and one output, computed by PyTorch, frozen.

    Args:
        path: the file.

    Raises:
        ModelError: ``model_unsuitable`` with the names of all operators that are not supported; see also ``check_weights``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnx
        from onnx import numpy_helper

        check_weights(path, "onnx")
        graph = onnx.load(str(path)).graph
        unknown = sorted({node.op_type for node in graph.node} - _OPERATORS.keys())
        if unknown:
            raise _unsuitable(path, f"it has operators that are not supported: {', '.join(unknown)}")
        constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        inputs = [item.name for item in graph.input if item.name not in constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise _unsuitable(path, f"it has {len(inputs)} inputs and {len(graph.output)} outputs instead of one of each")
        self._input, self._output = inputs[0], graph.output[0].name
        self._nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        for node in graph.node:
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Constant":
                constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
                continue
            padding = attributes.get("auto_pad", b"NOTSET").decode()
            if padding not in ("NOTSET", "VALID") or attributes.get("ceil_mode", 0):
                raise _unsuitable(path, f"{node.op_type} pads by {padding}, or rounds sizes up")
            self._nodes.append((node.op_type, list(node.input), node.output[0], attributes))
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in constants.items()}
        # Sizes, axes and bounds are read as numbers: on a GPU each would be waited for.
        self._numbers = {name: value for name, value in tensors.items() if not value.dim() or not value.is_floating_point()}
        self._names = {name: f"constant_{number}" for number, name in enumerate(tensors) if name not in self._numbers}
        for name, buffer in self._names.items():
            self.register_buffer(buffer, tensors[name])
        first = {node.op_type for node in list(graph.node)[:8]}
        # As InsightFace decides it: networks that subtract and multiply at their beginning take 0..255.
        self.centred = not {"Sub", "Mul"} <= first

    def forward(self, pictures: Tensor) -> Tensor:
        """``pictures`` as the graph wants them -> its output."""
        values: dict[str, Tensor | None] = {"": None, self._input: pictures, **self._numbers}
        values.update({name: getattr(self, buffer) for name, buffer in self._names.items()})
        for kind, inputs, output, attributes in self._nodes:
            values[output] = _OPERATORS[kind]([values[name] for name in inputs], attributes)
        result = values[self._output]
        assert result is not None
        return result

    def embed(self, pictures: Tensor) -> Tensor:
        """Embeddings [n, channels] of aligned faces [n, 3, 112, 112] in -1..1, RGB; differentiable."""
        return self(pictures if self.centred else (pictures + 1) * 127.5)


def load_identity_network(path: Path) -> OnnxNetwork:
    """An identity network, tried once.

    Raises:
        ModelError: ``model_unsuitable`` for a network that does not turn [1, 3, 112, 112] into [1, channels].
    """
    network = OnnxNetwork(path).eval()
    try:
        with torch.no_grad():
            shape = network.embed(torch.zeros(1, 3, SIDE, SIDE)).shape
    except (RuntimeError, IndexError, KeyError, TypeError) as error:
        raise _unsuitable(path, f"it cannot take a picture of shape [1, 3, {SIDE}, {SIDE}]: {str(error)[:200]}") from error
    if len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
        raise _unsuitable(path, f"it gives {list(shape)} instead of an embedding [1, channels]")
    return network


def aligned_faces(pictures: Tensor, points: Tensor) -> Tensor:
    """Faces where identity networks expect them, by the similarity that brings five points closest to ``TEMPLATE``.

    Bilinear, and differentiable with respect to the pictures. Pictures more than twice as fine are averaged first.

    Args:
        pictures: [n, 3, height, width].
        points: float [n, 5, 2], x and y in pixels from the picture's corner (``samples.FACE_POINTS``).

    Returns:
        [n, 3, 112, 112]; black outside of the picture, as InsightFace has it (-1, for pictures in -1..1).
    """
    template = torch.tensor(TEMPLATE, dtype=torch.float64, device=points.device) + 0.5
    wanted, found = torch.view_as_complex(template)[None], torch.view_as_complex(points.double().contiguous())
    middle, centre = found.mean(1, keepdim=True), wanted.mean()
    # The least squares similarity of the plane: q = s p with complex s.
    scale = ((found - middle).conj() * (wanted - centre)).sum(1, keepdim=True) / (found - middle).abs().square().sum(
        1, keepdim=True
    )
    fineness = int(max(1.0, float((1 / scale.abs()).min())))
    height, width = pictures.shape[-2:]
    if fineness > 1:
        height, width = height // fineness * fineness, width // fineness * fineness
        pictures = F.avg_pool2d(pictures[..., :height, :width], fineness)
    steps = torch.arange(SIDE, dtype=torch.float64, device=points.device) + 0.5
    pixels = torch.complex(steps[None, :].expand(SIDE, SIDE), steps[:, None].expand(SIDE, SIDE)).reshape(1, -1)
    sources = torch.view_as_real((pixels - centre) / scale + middle)
    extent = torch.tensor([width, height], dtype=torch.float64, device=points.device)
    grid = (2 * sources / extent - 1).reshape(len(points), SIDE, SIDE, 2).to(pictures.dtype)
    # Shifted so that what lies outside is black.
    return F.grid_sample(pictures + 1, grid, padding_mode="zeros", align_corners=False) - 1


def _unsuitable(path: Path, why: str) -> ModelError:
    return ModelError(
        "model_unsuitable", f"{path} cannot serve as a differentiable identity network: {why}.", "Register another network."
    )


def _pads(attributes: Attributes) -> tuple[int, int, int, int]:
    """ONNX names top, left, bottom, right; PyTorch left, right, top, bottom."""
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    return left, right, top, bottom


def _padded(picture: Tensor, attributes: Attributes, value: float = 0.0) -> Tensor:
    pads = _pads(attributes)
    return F.pad(picture, pads, value=value) if any(pads) else picture


def _convolution(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    picture, weight, bias = [*inputs, None][:3]
    assert picture is not None
    assert weight is not None
    strides, dilations = tuple(attributes.get("strides", (1, 1))), tuple(attributes.get("dilations", (1, 1)))
    return F.conv2d(_padded(picture, attributes), weight, bias, strides, 0, dilations, attributes.get("group", 1))


def _batch_normalisation(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    hidden, weight, bias, mean, variance = inputs
    assert hidden is not None
    return F.batch_norm(hidden, mean, variance, weight, bias, training=False, eps=attributes.get("epsilon", 1e-5))


def _prelu(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    del attributes
    hidden, slope = inputs
    assert hidden is not None
    assert slope is not None
    return torch.where(hidden >= 0, hidden, hidden * slope)


def _gemm(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    left, right, bias = [*inputs, None][:3]
    assert left is not None
    assert right is not None
    left = left.transpose(0, 1) if attributes.get("transA", 0) else left
    right = right.transpose(0, 1) if attributes.get("transB", 0) else right
    product = attributes.get("alpha", 1.0) * (left @ right)
    return product if bias is None else product + attributes.get("beta", 1.0) * bias


def _max_pool(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    picture = _first(inputs)
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", (1, 1)))
    return F.max_pool2d(_padded(picture, attributes, -float("inf")), kernel, strides)


def _average_pool(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    left, right, top, bottom = _pads(attributes)
    if (left, top) != (right, bottom):
        raise RuntimeError("an average pool with uneven padding")
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", (1, 1)))
    counted = bool(attributes.get("count_include_pad", 0))
    return F.avg_pool2d(_first(inputs), kernel, strides, (top, left), count_include_pad=counted)


def _reshape(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    hidden, shape = inputs
    assert hidden is not None
    assert shape is not None
    sizes = [int(size) for size in shape.tolist()]
    if not attributes.get("allowzero", 0):
        sizes = [hidden.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    if len(sizes) > 1 and sizes[0] == 1 and len(hidden) != 1:
        sizes[0] = len(hidden)  # exported with a batch of one
    return hidden.reshape(sizes)


def _clip(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    hidden, low, high = [*inputs, None, None][:3]
    assert hidden is not None
    lowest = attributes.get("min") if low is None else float(low)
    highest = attributes.get("max") if high is None else float(high)
    return hidden.clamp(lowest, highest)


def _flatten(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    hidden = _first(inputs)
    axis = attributes.get("axis", 1) % hidden.ndim
    return hidden.reshape(hidden.shape[:axis].numel(), -1)


def _axes(inputs: list[Tensor | None], attributes: Attributes) -> tuple[int, ...]:
    given: Sequence[int] = attributes.get("axes", []) if len(inputs) < 2 or inputs[1] is None else inputs[1].tolist()
    return tuple(int(axis) for axis in given)


def _unsqueeze(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    hidden = _first(inputs)
    for axis in sorted(_axes(inputs, attributes)):
        hidden = hidden.unsqueeze(axis)
    return hidden


def _squeeze(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    hidden, axes = _first(inputs), _axes(inputs, attributes)
    return hidden.squeeze(axes) if axes else hidden.squeeze()


def _first(inputs: list[Tensor | None]) -> Tensor:
    assert inputs[0] is not None
    return inputs[0]


def _all(inputs: list[Tensor | None]) -> list[Tensor]:
    return [value for value in inputs if value is not None]


_OPERATORS: dict[str, Operator] = {
    "Add": lambda inputs, _: torch.add(*_all(inputs)),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalisation,
    "Clip": _clip,
    "Concat": lambda inputs, attributes: torch.cat(_all(inputs), attributes["axis"]),
    "Constant": lambda inputs, _: _first(inputs),
    "Conv": _convolution,
    "Div": lambda inputs, _: torch.div(*_all(inputs)),
    "Dropout": lambda inputs, _: _first(inputs),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda inputs, _: _first(inputs).mean((2, 3), keepdim=True),
    "Identity": lambda inputs, _: _first(inputs),
    "LeakyRelu": lambda inputs, attributes: F.leaky_relu(_first(inputs), attributes.get("alpha", 0.01)),
    "MatMul": lambda inputs, _: torch.matmul(*_all(inputs)),
    "MaxPool": _max_pool,
    "Mul": lambda inputs, _: torch.mul(*_all(inputs)),
    "PRelu": _prelu,
    "Relu": lambda inputs, _: F.relu(_first(inputs)),
    "Reshape": _reshape,
    "Sigmoid": lambda inputs, _: torch.sigmoid(_first(inputs)),
    "Squeeze": _squeeze,
    "Sub": lambda inputs, _: torch.sub(*_all(inputs)),
    "Transpose": lambda inputs, attributes: _first(inputs).permute(*attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
