"""Promises of the registry of models: nothing damaged, foreign or executable gets in, and nothing downloads by itself."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import pickle
import struct
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.numpy import save as save_tensors

from schemas.problems import ModelError, UsageError
from stages.networks.model_entries import KNOWN
from stages.networks.registry import ModelRegistry
from stages.networks.weights import check_weights, kind_of


def tiny_tflite() -> bytes:
    """A flatbuffer of a model with two buffers, the second with eight bytes of weights."""
    table = struct.Struct("<i")
    data = bytearray(struct.pack("<I4s", 32, b"TFL3"))
    data += struct.pack("<HHHHHHH", 14, 8, 0, 0, 0, 0, 4).ljust(24, b"\0")  # vtable at 8: field 4 (buffers) at offset 4
    data += table.pack(32 - 8) + struct.pack("<I", 4)  # root table at 32; buffers: offset from 36
    data += struct.pack("<III", 2, 28 - 12 + 4, 28 - 16 + 12)  # vector at 40: two offsets, from 44 and 48
    data += struct.pack("<HHH", 4, 4, 0).ljust(12, b"\0")  # vtable at 52 of an empty buffer
    data += table.pack(64 - 52)  # empty buffer at 64
    data += struct.pack("<I", 0)
    data[48:52] = struct.pack("<I", 80 - 48)
    data += struct.pack("<HHH", 6, 8, 4).ljust(8, b"\0")  # vtable at 72
    data += table.pack(80 - 72) + struct.pack("<I", 4) + struct.pack("<I", 8) + bytes(range(8))
    return bytes(data)


def tiny_onnx() -> bytes:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "tiny", [sides[0]], [sides[1]])
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def tiny_torchscript() -> bytes:
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Twice()), buffer)
    return buffer.getvalue()


def tiny_npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays or {"weights": np.arange(3.0)}))  # type: ignore[arg-type]
    return buffer.getvalue()


def tiny_task() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("face.tflite", tiny_tflite())
    return buffer.getvalue()


WHOLE = {
    "tflite": tiny_tflite(),
    "task": tiny_task(),
    "onnx": tiny_onnx(),
    "torchscript": tiny_torchscript(),
    "npz": tiny_npz(),
    "safetensors": save_tensors({"weights": np.arange(3.0)}),
}
SUFFIX = {
    "tflite": ".tflite",
    "task": ".task",
    "onnx": ".onnx",
    "torchscript": ".pt",
    "npz": ".npz",
    "safetensors": ".safetensors",
}


def declare(folder: Path, name: str = "faces", **values: object) -> None:
    entry = {"file": f"{name}.npz", "kind": "npz", "licence": "in-house", "commercial": True, "serves": "tests", **values}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models.yaml").write_text(yaml.safe_dump({name: entry}))


def written(folder: Path, data: bytes, name: str = "file.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def code_of(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    assert caught.value.remedy
    return caught.value.code


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_a_whole_file_passes_and_its_name_tells_its_kind(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, WHOLE[kind], "file" + SUFFIX[kind])
    check_weights(path, kind)  # type: ignore[arg-type]
    assert kind_of(path) == kind


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    data = WHOLE[kind]
    for share in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0):
        cut = data[: min(int(len(data) * share), len(data) - 1)]
        assert code_of(check_weights, written(tmp_path, cut), kind) in ("model_damaged", "model_wrong_kind"), share


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_a_file_of_any_other_kind_and_any_pickle_is_refused(tmp_path: Path, kind: str) -> None:
    for other, data in WHOLE.items():
        if other != kind:
            assert code_of(check_weights, written(tmp_path, data), kind) in ("model_wrong_kind", "model_damaged")
    assert code_of(check_weights, written(tmp_path, pickle.dumps({"weights": 1})), kind) == "model_pickle"
    assert code_of(check_weights, tmp_path / "none", kind) == "model_missing"


def test_pickles_inside_other_formats_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, buffer)
    assert code_of(check_weights, written(tmp_path, buffer.getvalue()), "torchscript") == "model_pickle"
    objects = tiny_npz(weights=np.array([{}], dtype=object))
    assert code_of(check_weights, written(tmp_path, objects), "npz") == "model_pickle"


def test_files_made_to_break_their_reader_are_refused(tmp_path: Path) -> None:
    for header in (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":{"data_offsets":[0,1e400]}}'):
        data = struct.pack("<Q", len(header)) + header
        assert code_of(check_weights, written(tmp_path, data), "safetensors") == "model_damaged"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weights=np.arange(10_000))
    packed = bytearray(buffer.getvalue())
    packed[60:200] = b"\xa5" * 140
    assert code_of(check_weights, written(tmp_path, bytes(packed)), "npz") == "model_damaged"
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("weights.npy", b"no array")
    assert code_of(check_weights, tmp_path / "text.npz", "npz") == "model_damaged"


def test_arrays_that_are_missing_are_named(tmp_path: Path) -> None:
    for kind in ("npz", "safetensors"):
        with pytest.raises(ModelError, match=r"lacks the (arrays|tensors) bias"):
            check_weights(written(tmp_path, WHOLE[kind]), kind, ("weights", "bias"))  # type: ignore[arg-type]


def test_a_folder_that_does_not_exist_has_no_models_and_is_not_made(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    assert {status.state for status in registry.list()} == {"missing"}
    assert [status.name for status in registry.list()] == ["hair_segmentation", "ict", "lama", "arcface"]
    assert registry.path("lama") is None
    assert code_of(registry.digest, "lama") == code_of(registry.require, "lama") == "model_missing"
    assert not (tmp_path / "models").exists()


def test_the_folder_comes_from_the_environment_or_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSWAP_MODELS", str(tmp_path))
    assert ModelRegistry().folder == tmp_path
    monkeypatch.delenv("HEADSWAP_MODELS")
    assert ModelRegistry().folder == Path.home() / ".cache/headswap/models"


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'lama'"):
        ModelRegistry(tmp_path).path("lamma")


def test_an_added_model_is_there_for_the_next_process_and_for_pickled_registries(tmp_path: Path) -> None:
    declare(tmp_path / "models")
    registry = ModelRegistry(tmp_path / "models")
    path = registry.add("faces", written(tmp_path, WHOLE["npz"]))
    assert path.read_bytes() == WHOLE["npz"]
    for again in (registry, ModelRegistry(tmp_path / "models"), pickle.loads(pickle.dumps(registry))):
        assert again.path("faces") == again.require("faces") == path
        assert again.digest("faces") == hashlib.sha256(WHOLE["npz"]).hexdigest()
    assert sorted(entry.name for entry in (tmp_path / "models").iterdir()) == [".verified.json", "faces.npz", "models.yaml"]


def test_a_refused_file_leaves_the_registered_one_as_it_was(tmp_path: Path) -> None:
    declare(tmp_path / "models")
    registry = ModelRegistry(tmp_path / "models")
    path = registry.add("faces", written(tmp_path, WHOLE["npz"]))
    assert code_of(registry.add, "faces", written(tmp_path, WHOLE["npz"][:-30])) == "model_damaged"
    assert code_of(registry.add, "faces", tmp_path) == "model_wrong_kind"
    assert registry.path("faces") == path
    assert path.read_bytes() == WHOLE["npz"]


def test_a_file_that_is_not_the_one_on_record_needs_to_be_allowed(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    file = written(tmp_path, WHOLE["onnx"])
    assert code_of(registry.add, "arcface", file) == "model_digest"
    assert registry.path("arcface") is None
    registry.add("arcface", file, allow_unknown_digest=True)
    again = ModelRegistry(tmp_path / "models")
    assert again.digest("arcface") == hashlib.sha256(WHOLE["onnx"]).hexdigest()
    assert [status.state for status in again.verify() if status.name == "arcface"] == ["present"]


def test_a_file_changed_later_is_damaged_not_missing(tmp_path: Path) -> None:
    declare(tmp_path, sha256=hashlib.sha256(WHOLE["npz"]).hexdigest())
    registry = ModelRegistry(tmp_path)
    path = registry.add("faces", written(tmp_path, WHOLE["npz"]))
    path.write_bytes(tiny_npz(weights=np.arange(4.0)))
    for again in (registry, ModelRegistry(tmp_path)):
        assert code_of(again.path, "faces") == "model_damaged"
        (status,) = [status for status in again.list() if status.name == "faces"]
        assert (status.state, "not the one on record" in status.detail) == ("damaged", True)


def test_verify_finds_what_size_and_time_do_not_show(tmp_path: Path) -> None:
    declare(tmp_path, sha256=hashlib.sha256(WHOLE["npz"]).hexdigest())
    registry = ModelRegistry(tmp_path)
    path = registry.add("faces", written(tmp_path, WHOLE["npz"]))
    before = path.stat()
    data = bytearray(WHOLE["npz"])
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert registry.path("faces") == path
    assert [status.state for status in registry.verify() if status.name == "faces"] == ["damaged"]


def test_the_digest_is_computed_once_for_an_unchanged_file(tmp_path: Path) -> None:
    declare(tmp_path)
    path = ModelRegistry(tmp_path).add("faces", written(tmp_path, WHOLE["npz"]))
    state = json.loads((tmp_path / ".verified.json").read_text())
    state["faces.npz"]["sha256"] = state["faces.npz"]["accepted"] = "0" * 64
    (tmp_path / ".verified.json").write_text(json.dumps(state))
    assert ModelRegistry(tmp_path).digest("faces") == "0" * 64, "it was read again"
    path.touch()
    assert code_of(ModelRegistry(tmp_path).digest, "faces") == "model_damaged"


def test_a_damaged_memory_only_costs_reading_again(tmp_path: Path) -> None:
    declare(tmp_path)
    path = ModelRegistry(tmp_path).add("faces", written(tmp_path, WHOLE["npz"]))
    for text in ("{", "[]", '{"faces.npz": 3}'):
        (tmp_path / ".verified.json").write_text(text)
        assert ModelRegistry(tmp_path).path("faces") == path


def test_declarations_are_checked_all_at_once(tmp_path: Path) -> None:
    good = {"file": "a.npz", "kind": "npz", "licence": "MIT", "commercial": True, "serves": "x"}
    declared = {
        "lama": good,
        "a": {**good, "kind": "pickle"},
        "b": {**good, "file": "../b.npz"},
        "c": {**good, "url": "file:///etc/passwd"},
        "d": {**good, "file": "big-lama.pt"},
        "e": 3,
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(declared))
    with pytest.raises(UsageError) as caught:
        ModelRegistry(tmp_path)
    assert len(caught.value.problems) == 6
    assert "lama is a built-in model" in "\n".join(caught.value.problems)
    assert "d.file: big-lama.pt belongs to lama" in "\n".join(caught.value.problems)


def test_a_commercial_run_refuses_research_models_by_name_and_licence(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.refuse_non_commercial(["lama", "ict", "hair_segmentation"])
    with pytest.raises(ModelError, match="arcface: non-commercial research only"):
        registry.refuse_non_commercial(["lama", "arcface"])


def test_every_known_model_names_its_licence_digest_and_origin() -> None:
    for entry in KNOWN:
        assert entry.licence
        assert entry.sha256
        assert entry.origin
        assert entry.url or entry.note


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server on this machine and the files it serves."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files.get(self.path.removesuffix("?cut"))
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:10] if self.path.endswith("?cut") else data)

        def log_message(self, format: str, *arguments: object) -> None:
            del format, arguments

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_pull_needs_the_licence_accepted_and_shows_it(tmp_path: Path, web: tuple[str, dict[str, bytes]]) -> None:
    url, files = web
    files["/faces.npz"] = WHOLE["npz"]
    declare(
        tmp_path, url=f"{url}/faces.npz", sha256=hashlib.sha256(WHOLE["npz"]).hexdigest(), licence="Faces 1.0", commercial=False
    )
    registry = ModelRegistry(tmp_path)
    with pytest.raises(ModelError, match=r"Faces 1\.0: commercial use is NOT allowed"):
        registry.pull("faces")
    seen: list[tuple[int, int | None]] = []
    path = registry.pull("faces", accept_licence=True, progress=lambda *counts: seen.append(counts))
    assert path.read_bytes() == WHOLE["npz"]
    assert seen[-1] == (len(WHOLE["npz"]), len(WHOLE["npz"]))


def test_a_pull_takes_one_member_out_of_an_archive(tmp_path: Path, web: tuple[str, dict[str, bytes]]) -> None:
    url, files = web
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pack/other.onnx", b"other")
        archive.writestr("pack/faces.onnx", WHOLE["onnx"])
    files["/pack.zip"] = buffer.getvalue()
    declare(tmp_path, url=f"{url}/pack.zip", member="faces.onnx", file="faces.onnx", kind="onnx")
    assert ModelRegistry(tmp_path).pull("faces", accept_licence=True).read_bytes() == WHOLE["onnx"]
    declare(tmp_path, url=f"{url}/pack.zip", member="none.onnx", file="none.onnx", kind="onnx")
    assert code_of(ModelRegistry(tmp_path).pull, "faces", accept_licence=True) == "model_download"


def test_a_failed_pull_leaves_nothing_behind(tmp_path: Path, web: tuple[str, dict[str, bytes]]) -> None:
    url, files = web
    files["/faces.npz"] = WHOLE["npz"]
    for path, options, expected in (
        ("/faces.npz?cut", {}, "model_download"),
        ("/none.npz", {}, "model_download"),
        ("/faces.npz", {"maximum_bytes": 100}, "model_download"),
        ("/faces.npz", {"sha256": "0" * 64}, "model_digest"),
    ):
        declare(tmp_path, url=url + path, sha256=str(options.pop("sha256", "")))
        assert code_of(ModelRegistry(tmp_path).pull, "faces", accept_licence=True, **options) == expected
        assert [entry.name for entry in tmp_path.iterdir()] == ["models.yaml"]


def test_a_pull_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    declare(tmp_path, url="http://127.0.0.1:9/faces.npz")
    with pytest.raises(ModelError, match="fetch the file elsewhere and register it") as caught:
        ModelRegistry(tmp_path).pull("faces", accept_licence=True)
    assert caught.value.retryable
    assert code_of(ModelRegistry(tmp_path).pull, "ict", accept_licence=True) == "model_no_url"


def test_the_real_files_are_the_ones_on_record(tmp_path: Path, shared: Path) -> None:
    registry = ModelRegistry(tmp_path)
    found = {"hair_segmentation": "mediapipe/hair_segmentation.tflite", "ict": "ict/ict_facekit.npz"}
    for name, file in found.items():
        if not (shared / "models" / file).is_file():
            pytest.skip(f"needs {file} in ../shared/models")
        registry.add(name, shared / "models" / file)
    assert {status.name for status in registry.verify() if status.state == "present"} == set(found)
    cut = written(tmp_path, (shared / "models" / found["hair_segmentation"]).read_bytes()[:-1000], "cut.tflite")
    assert code_of(registry.add, "hair_segmentation", cut, allow_unknown_digest=True) == "model_damaged"
    assert code_of(registry.add, "lama", shared / "models/taef2/taef2_decoder.pth") == "model_pickle"


def test_the_documentation_lists_every_known_model() -> None:
    document = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    for entry in KNOWN:
        allowed = "yes" if entry.commercial else "no"
        assert f"| `{entry.name}` | `{entry.file}` | {entry.licence} | {allowed} | {entry.serves} |" in document
