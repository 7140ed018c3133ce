"""Promises of the doctor: it finds what was broken on purpose, says what to do, and never falls ill itself."""

from __future__ import annotations

import compileall
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from flows import doctor
from flows.doctor import Check, print_checks
from schemas.configuration import load_settings
from stages.networks.registry import ModelRegistry
from storage.store import ArtifactStore
from tests.signing import write_chain


def states(checks: object) -> dict[str, str]:
    return {check.name: check.state for check in checks}  # type: ignore[attr-defined]


def test_a_right_environment_is_found_right(tmp_path: Path) -> None:
    settings = load_settings({"store": str(tmp_path / "store")})
    checks = doctor.check_up(settings, ModelRegistry(tmp_path / "models"))
    assert [check for check in checks if check.state == "failed"] == []
    assert {"python", "packages", "foreign packages", "prefect", "processor", "accelerator", "memory", "store"} <= set(
        states(checks)
    )
    assert sum(check.name.startswith("model ") for check in checks) == 4
    assert all(check.detail for check in checks)


def test_the_store_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    settings = load_settings({"store": str(tmp_path / "store")})
    assert states(doctor.check_store(settings))["store"] == "ok"
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_store_that_is_not_there_yet_is_told_and_not_made(tmp_path: Path) -> None:
    checks = list(doctor.check_store(load_settings({"store": str(tmp_path / "mistyped" / "store")})))
    assert [(check.name, check.state) for check in checks if "nothing lies at" in check.detail] == [("store", "warning")]
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_memory_is_checked_too() -> None:
    assert states(doctor.check_store(load_settings({"store": "memory://doctor"}))) == {"store": "ok"}


def test_a_store_that_cannot_be_reached_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (check,) = doctor.check_store(load_settings({"store": str(tmp_path / "file")}))
    assert check.state == "failed"
    assert str(tmp_path / "file") in check.detail
    assert check.remedy
    (check,) = doctor.check_store(load_settings())
    assert (check.state, check.detail) == ("warning", "none is given")


def test_a_store_that_lets_both_creators_win_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ArtifactStore.open(tmp_path) as store:
        monkeypatch.setattr(store.backend, "create", lambda path, data: True)
        monkeypatch.setattr(ArtifactStore, "open", lambda *_, **__: store)
        (check, _) = doctor.check_store(load_settings({"store": str(tmp_path)}))
    assert (check.state, "exactly once" in check.detail) == ("failed", True)


def test_wrong_and_missing_packages_are_named() -> None:
    pinned = doctor.constraints(
        "numpy==1.0\n# a comment\ntorch==2.13.0 ; sys_platform != 'never'\nnothere==1 ; sys_platform == 'never'\n"
    )
    assert pinned == {"numpy": "1.0", "torch": "2.13.0"}
    (check,) = doctor.check_packages(pinned)
    assert check.state == "warning"
    assert "numpy 2" in check.detail
    assert "(tested: 1.0)" in check.detail
    assert "torch" not in check.detail, "a CPU build is the same release"


def test_packages_that_break_others_are_found() -> None:
    checks = list(doctor.check_foreign_packages(["Torchvision", "opencv_python", "numpy", "opencv-contrib-python-headless"]))
    assert [check.detail.split()[0] for check in checks] == ["opencv-python", "torchvision"]
    assert {check.state for check in checks} == {"failed"}
    assert states(doctor.check_foreign_packages()) == {"foreign packages": "ok"}


def test_workers_that_compile_every_package_anew_are_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "large"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (check,) = doctor.check_compiled_modules(["large", "no_such_package"])
    assert check.state == "warning"
    assert "large" in check.detail
    assert "no_such" not in check.detail
    assert "compileall" in check.remedy
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert states(doctor.check_compiled_modules(["large"])) == {"compiled modules": "ok"}
    monkeypatch.setattr(os, "access", lambda *_: False)  # a folder that cannot be written, also for root
    assert states(doctor.check_compiled_modules(["large"])) == {"compiled modules": "warning"}
    compileall.compile_dir(package, quiet=2)
    assert states(doctor.check_compiled_modules(["large"])) == {"compiled modules": "ok"}


def test_a_server_that_does_not_import_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise TypeError(f"Body() got an unexpected keyword argument in {name}")

    monkeypatch.setattr(doctor.importlib, "import_module", fails)
    (check,) = doctor.check_prefect()
    assert check.state == "failed"
    assert "Body() got an unexpected" in check.detail


def test_too_many_workers_and_too_little_memory_are_warned_about() -> None:
    many = load_settings({"workers": 1000})
    assert states(doctor.check_processor(many)) == {"processor": "warning"}
    assert states(doctor.check_memory(many)) == {"memory": "warning"}


def test_a_gpu_that_is_asked_for_and_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for flags, expected in (({"device": "cuda"}, "failed"), ({"renderer": "diffusion"}, "warning"), ({}, "ok")):
        assert states(doctor.check_accelerator(load_settings(flags))) == {"accelerator": expected}


@pytest.mark.parametrize(("device", "state"), [("auto", "warning"), ("cuda:0", "failed")])
def test_a_gpu_that_cuda_cannot_use_is_told_with_the_reason(device: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    (check,) = doctor.check_accelerator(load_settings({"device": device}))
    assert check.state == state
    assert "driver on your system is too old" in check.detail


def test_a_gpu_beside_those_that_are_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    (check,) = doctor.check_accelerator(load_settings({"device": "cuda:0,cuda:1"}))
    assert check.state == "failed"
    assert "no device 'cuda:1' here, but cuda:0" in check.detail


def test_gpus_without_code_in_this_pytorch_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    gpu = SimpleNamespace(name="Old GPU", total_memory=2**33, major=6, minor=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    (check,) = doctor.check_accelerator(load_settings())
    assert check.state == "warning"
    assert "Old GPU" in check.detail
    assert "cuda:0 is an sm_61" in check.detail
    assert "left alone" in check.remedy


def test_a_certificate_that_can_sign_or_cannot_is_told(tmp_path: Path) -> None:
    assert list(doctor.check_signing(load_settings())) == []
    chain, key = write_chain(tmp_path)
    signing = {"provenance.certificate": str(chain), "provenance.key": str(key)}
    (check,) = doctor.check_signing(load_settings(signing))
    assert check.state == "ok"
    key.write_text("no key")
    (check,) = doctor.check_signing(load_settings(signing))
    assert (check.state, "holds no private key" in check.detail, bool(check.remedy)) == ("failed", True, True)


def test_damaged_and_forbidden_models_are_told(tmp_path: Path) -> None:
    (tmp_path / "big-lama.pt").write_bytes(b"not a network")
    checks = {check.name: check for check in doctor.check_models(load_settings(), ModelRegistry(tmp_path))}
    assert checks["model lama"].state == "failed"
    assert checks["model hair_segmentation"].state == "ok"
    assert "cannot be pulled" in checks["model ict"].remedy


def test_scratch_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(doctor.check_scratch(load_settings({"scratch": str(tmp_path / "none")}))) == {"scratch": "warning"}
    settings = load_settings({"scratch": str(tmp_path)})
    monkeypatch.setattr(doctor, "LEAST_SPACE", 2**70)
    assert states(doctor.check_scratch(settings)) == {"scratch": "warning"}
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert states(doctor.check_scratch(settings)) == {"scratch": "failed"}


def test_values_that_are_set_are_listed_with_their_origin_and_no_secrets() -> None:
    settings = load_settings(
        {"seed": 3}, {"HEADSWAP_STAGES__ENCODE__CRF": "18", "HEADSWAP_STORAGE_OPTIONS": '{"secret": "hush"}'}
    )
    told = {check.name: check.detail for check in doctor.list_settings(settings)}
    assert told["setting seed"] == "3 (--seed)"
    assert told["setting stages.encode.crf"] == "18 (HEADSWAP_STAGES__ENCODE__CRF)"
    assert len(told) == 3
    assert "hush" not in "".join(told.values())


def test_a_check_that_breaks_down_is_reported_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(settings: object) -> list[Check]:
        raise ZeroDivisionError("by zero")

    for name in ("check_memory", "check_accelerator"):
        monkeypatch.setattr(doctor, name, breaks)
    monkeypatch.setattr(doctor, "check_prefect", list)
    checks = {check.name: check for check in doctor.check_up(load_settings(), ModelRegistry(tmp_path))}
    assert checks["memory"].state == "failed"
    assert "ZeroDivisionError: by zero" in checks["memory"].detail
    assert checks["scratch"].state == "ok"


def test_what_is_printed_names_state_detail_and_remedy() -> None:
    stream = io.StringIO()
    checks = [
        Check("python", "ok", "3.11", "nothing"),
        Check("store", "failed", "[not markup] unreachable", "Check the network."),
    ]
    print_checks(checks, Console(file=stream, width=100))
    text = stream.getvalue()
    for expected in (
        "ok      python",
        "failed  store",
        "[not markup] unreachable",
        "Check the network.",
        "1 ok, 0 warning, 1 failed",
    ):
        assert expected in text
    assert "nothing" not in text
