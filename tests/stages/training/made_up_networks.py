"""A made-up identity network as ONNX: the layers that ArcFace networks have, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_identity_network(path: Path, *, seed: int = 0, extra: str | None = None, centred: bool = True) -> Path:
    """A small residual network like iresnet: [n, 3, 112, 112] -> [n, 16].

    Args:
        path: of the file. seed: of the weights. extra: an operator to put in, to see it refused.
        centred: takes -1..1; otherwise it takes 0..255 and begins with Sub and Mul, as networks exported from MXNet do.
    """
    rng = np.random.default_rng(seed)
    constants, nodes = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value.astype(np.float32) if value.dtype == float else value, name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def convolution(hidden: str, name: str, inputs: int, outputs: int, stride: int, kernel: int = 3) -> str:
        weight = constant(f"{name}.w", rng.normal(size=(outputs, inputs, kernel, kernel)) / np.sqrt(inputs * kernel**2))
        bias = constant(f"{name}.b", rng.normal(size=outputs) * 0.1)
        pad = kernel // 2
        return node("Conv", [hidden, weight, bias], name, strides=[stride, stride], pads=[pad] * 4, kernel_shape=[kernel, kernel])

    def normalisation(hidden: str, name: str, channels: int) -> str:
        values = [rng.uniform(0.5, 1.5, channels), rng.normal(size=channels) * 0.1]
        values += [rng.normal(size=channels) * 0.1, rng.uniform(0.5, 1.5, channels)]
        names = [constant(f"{name}.{place}", value) for place, value in enumerate(values)]
        return node("BatchNormalization", [hidden, *names], name, epsilon=2e-5)

    def slope(hidden: str, name: str, channels: int) -> str:
        return node("PRelu", [hidden, constant(f"{name}.s", rng.uniform(0, 0.5, (channels, 1, 1)))], name)

    hidden = "picture"
    if not centred:
        hidden = node("Sub", [hidden, constant("mean", np.array(127.5))], "minus")
        hidden = node("Mul", [hidden, constant("scale", np.array(1 / 127.5))], "times")
    hidden = slope(normalisation(convolution(hidden, "stem", 3, 8, 2), "stem_n", 8), "stem_s", 8)
    for number, (inputs, outputs) in enumerate(((8, 8), (8, 16))):
        inner = convolution(normalisation(hidden, f"n{number}", inputs), f"c{number}a", inputs, outputs, 1)
        inner = convolution(slope(inner, f"s{number}", outputs), f"c{number}b", outputs, outputs, 2)
        hidden = node("Add", [inner, convolution(hidden, f"short{number}", inputs, outputs, 2, 1)], f"sum{number}")
    if extra is not None:
        hidden = node(extra, [hidden], "extra")
    hidden = node("Dropout", [node("AveragePool", [hidden], "pool", kernel_shape=[2, 2], strides=[2, 2])], "dropout")
    hidden = node("Reshape", [hidden, constant("shape", np.array([-1, 16 * 49], np.int64))], "reshape")
    weight = constant("gemm.w", rng.normal(size=(16, 16 * 49)) / 28)
    hidden = node("Gemm", [hidden, weight, constant("gemm.b", rng.normal(size=16))], "gemm", transB=1)
    values = [rng.uniform(0.5, 1.5, 16), rng.normal(size=16), rng.normal(size=16) * 0.1, rng.uniform(0.5, 1.5, 16)]
    names = [constant(f"last.{place}", value) for place, value in enumerate(values)]
    node("BatchNormalization", [hidden, *names], "embedding")
    graph = helper.make_graph(
        nodes,
        "identity",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 16])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8), str(path))
    return path
