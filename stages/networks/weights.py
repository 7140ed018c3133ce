"""Is this file what it claims to be? A look into files of weights, without running anything that is in them.

Pickles are refused: loading one runs whatever code its author put into it.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from schemas.problems import ModelError

Kind = Literal["tflite", "task", "onnx", "torchscript", "npz", "safetensors"]

_MAXIMUM_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""


def check_weights(path: Path, kind: Kind, arrays: Sequence[str] = ()) -> None:
    """Check that a file is complete and of its kind.

    Args:
        path: the file.
        kind: ``tflite``; ``task`` (MediaPipe's zip of tflite networks); ``onnx``; ``torchscript``; ``npz``; ``safetensors``.
        arrays: names that an ``npz`` or ``safetensors`` file must hold.

    Raises:
        ModelError: ``model_missing``, ``model_pickle``, ``model_wrong_kind`` or ``model_damaged``.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(
            "model_missing", f"The file {path} cannot be read: {error.strerror}.", "Check the path and its permissions."
        ) from error
    if not head:
        raise _damaged(path, "it is empty")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise _pickle(path)
    _CHECKS[kind](path, head, arrays)


def kind_of(path: Path) -> Kind | None:
    """The kind that a file's name suggests."""
    kinds: dict[str, Kind] = {
        ".tflite": "tflite",
        ".task": "task",
        ".onnx": "onnx",
        ".pt": "torchscript",
        ".ts": "torchscript",
        ".npz": "npz",
        ".safetensors": "safetensors",
    }
    return kinds.get(path.suffix.lower())


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError("model_damaged", f"The file {path} is damaged or cut short: {why}.", "Copy or download it again.")


def _wrong_kind(path: Path, kind: str, why: str) -> ModelError:
    return ModelError("model_wrong_kind", f"The file {path} is no {kind} file: {why}.", "Check that it is the file you meant.")


def _pickle(path: Path) -> ModelError:
    return ModelError(
        "model_pickle",
        f"The file {path} is a Python pickle, which can run any code when it is loaded; it is refused.",
        "Convert it to safetensors (or TorchScript) in an environment where you trust it.",
    )


def _tflite(path: Path, head: bytes, arrays: Sequence[str]) -> None:
    del arrays
    if head[4:8] != b"TFL3":
        raise _wrong_kind(path, "TensorFlow Lite", "the mark TFL3 is missing at its beginning")
    (root,) = struct.unpack_from("<I", head)
    with path.open("rb") as file:
        data = file.read()
    if len(data) < root + 4:
        raise _damaged(path, "its root table lies beyond its end")
    try:
        _walk_tflite(data, root)
    except (struct.error, IndexError) as error:
        raise _damaged(path, "one of its tables or buffers lies beyond its end") from error


def _walk_tflite(data: bytes, root: int) -> None:
    """Touch the buffers (field 4 of the model's table in schema.fbs), which hold the weights and lie at any place in the file."""

    def field(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        (size,) = struct.unpack_from("<H", data, vtable)
        at = 4 + 2 * number
        offset = struct.unpack_from("<H", data, vtable + at)[0] if at < size else 0
        return table + offset if offset else 0

    def indirect(at: int) -> int:
        return int(at + struct.unpack_from("<I", data, at)[0])

    buffers = field(root, 4)
    if not buffers:
        raise IndexError("no buffers")
    start = indirect(buffers)
    (count,) = struct.unpack_from("<I", data, start)
    for number in range(count):
        content = field(indirect(start + 4 + 4 * number), 0)
        if content:
            vector = indirect(content)
            (length,) = struct.unpack_from("<I", data, vector)
            if vector + 4 + length > len(data):
                raise IndexError("buffer beyond the end")


def _check_zip(path: Path, kind: str) -> None:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        raise (
            _damaged(path, "the directory of its zip archive is missing")
            if is_zip
            else _wrong_kind(path, kind, "it is no zip archive")
        ) from error
    with archive:
        try:
            bad = archive.testzip()
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise _damaged(path, str(error)) from error
    if bad is not None:
        raise _damaged(path, f"its member {bad} fails its checksum")


def _task(path: Path, head: bytes, arrays: Sequence[str]) -> None:
    del head, arrays
    _check_zip(path, "MediaPipe task")
    with zipfile.ZipFile(path) as archive:
        networks = [name for name in archive.namelist() if name.endswith(".tflite")]
        if not networks:
            raise _wrong_kind(path, "MediaPipe task", "it holds no .tflite network")
        for name in networks:
            with archive.open(name) as member:  # its first bytes only: what is packed may be far larger than the archive
                mark = member.read(8)[4:]
            if mark != b"TFL3":
                raise _damaged(path, f"its member {name} is no network")


def _onnx(path: Path, head: bytes, arrays: Sequence[str]) -> None:
    del arrays
    if head[:4] == b"PK\x03\x04":
        raise _wrong_kind(path, "ONNX", "it is a zip archive; unpack it and give the .onnx file inside")
    import onnx  # only here: 0.3 s that no other command should pay
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise _damaged(path, "it does not parse as ONNX") from error
    if not model.graph.node or not model.graph.output:
        raise _wrong_kind(path, "ONNX", "it holds no graph")


def _torchscript(path: Path, head: bytes, arrays: Sequence[str]) -> None:
    del head, arrays
    _check_zip(path, "TorchScript")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    # A checkpoint of torch.save is a zip as well, but holds a pickle and no code of the TorchScript language.
    if not any("/code/" in name for name in names):
        if any(name.endswith("/data.pkl") for name in names):
            raise _pickle(path)
        raise _wrong_kind(path, "TorchScript", "it holds no code")


def _npz(path: Path, head: bytes, arrays: Sequence[str]) -> None:
    del head
    _check_zip(path, "NumPy .npz")
    with zipfile.ZipFile(path) as members:
        if not members.namelist() or not all(name.endswith(".npy") for name in members.namelist()):
            raise _wrong_kind(path, "NumPy .npz", "its members are no arrays")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in arrays if name not in archive.files]
            if missing:
                raise _wrong_kind(path, "model", f"it lacks the arrays {', '.join(missing)}")
            for name in archive.files:
                if not isinstance(archive[name], np.ndarray):  # NumPy hands out bytes where its mark is missing
                    raise _damaged(path, f"its member {name} is no array")
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise _pickle(path) from error
        raise _damaged(path, str(error)) from error


def _safetensors(path: Path, head: bytes, arrays: Sequence[str]) -> None:
    size = path.stat().st_size
    if len(head) < 9 or head[8:9] != b"{":
        raise _wrong_kind(path, "safetensors", "its header is missing")
    (length,) = struct.unpack_from("<Q", head)
    if length > min(_MAXIMUM_HEADER, size - 8):
        raise _damaged(path, "its header lies beyond its end")
    try:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(length))
        tensors = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        end = max((int(stop) for _, stop in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise _damaged(path, "its header does not parse") from error
    if 8 + length + end != size:
        raise _damaged(path, f"it has {size} bytes where its header asks for {8 + length + end}")
    missing = [name for name in arrays if name not in tensors]
    if missing:
        raise _wrong_kind(path, "model", f"it lacks the tensors {', '.join(missing)}")


_CHECKS: dict[Kind, Callable[[Path, bytes, Sequence[str]], None]] = {
    "tflite": _tflite,
    "task": _task,
    "onnx": _onnx,
    "torchscript": _torchscript,
    "npz": _npz,
    "safetensors": _safetensors,
}
