"""What runs on a GPU is rehearsed without one: nothing is left on the CPU, waited for or computed in the wrong precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    identity = tmp_path_factory.mktemp("rehearsal") / "identity.onnx"
    command = [sys.executable, "-m", "tests.benchmarks.rehearse", str(identity)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def files(places: dict[str, int]) -> set[str]:
    return {place.partition(":")[0] for place in places}


def test_what_a_gpu_would_refuse_is_refused(found: dict[str, Any]) -> None:
    for name, told in (("mixed", "same device"), ("imprecise", "same dtype")):
        assert told in found[name][1]


def test_memory_is_that_of_the_tensors_that_are_held(found: dict[str, Any]) -> None:
    sums = found["sums"]
    weights = sums["weights"]
    assert weights == 4 * (300 + 10)
    assert sums["used"] == weights + 4 * (5 * 30 + 1), "what is given, and the sum"
    assert sums["graded"] == sums["used"] + weights
    assert (sums["number"], sums["waits"]) == (1.0, 2)
    assert sums["gone"] == 0
    assert sums["peak"] > sums["graded"]


def test_the_optimiser_steps_without_a_copy_of_the_weights(found: dict[str, Any]) -> None:
    assert found["stepped"]["peak"] < 1.01 * found["stepped"]["held"]


def test_sampling_waits_for_the_gpu_at_no_step(found: dict[str, Any]) -> None:
    waits = found["two steps"]["waits"]
    assert waits == found["four steps"]["waits"], "none at every step"
    # 28 frames' noise; of two windows drawings, backgrounds and how they share frames; pictures, four at a time; time steps.
    assert sum(waits.values()) == 28 + 4 + 4 + 7 + 1


def test_all_arithmetic_of_sampling_is_in_the_precision_asked_for(found: dict[str, Any]) -> None:
    for name in ("two steps", "each window"):
        assert set(found[name]["precisions"]) == {"bfloat16"}


def test_memory_of_the_gpu_does_not_grow_with_the_length(found: dict[str, Any]) -> None:
    assert found["112 frames"]["peak"] < 1.02 * found["64 frames"]["peak"]
    assert found["112 frames"]["notes"] == []


def test_networks_that_are_gone_through_once_take_as_much_memory(found: dict[str, Any]) -> None:
    assert found["64 frames, each network once"]["peak"] == found["64 frames"]["peak"]


def test_many_steps_keep_no_more_of_a_long_video(found: dict[str, Any]) -> None:
    few, many = (found[f"{frames} frames, many steps"] for frames in (100, 196))
    assert many["notes"] == []
    # Of what belongs to the windows under way latents and backgrounds alone become more. Pose features of twice as many windows
    # would be a sixth of all.
    assert many["peak"] < 1.04 * few["peak"]


def test_a_gpu_with_less_memory_generates_in_smaller_windows_and_says_so(found: dict[str, Any]) -> None:
    less = found["0.75 of the memory"]
    assert less["peak"] <= 0.75 * found["two steps"]["peak"]
    assert ["in two halves" in note for note in less["notes"]] == [True, False]
    assert "windows of 8 instead of 16" in less["notes"][1]
    assert found["0.4 of the memory"] == ["ModelError", "out_of_memory"]


def test_training_computes_on_the_gpu_and_waits_for_it_to_give_batches_and_read_losses(found: dict[str, Any]) -> None:
    for phase in ("autoencoder", "single-frames", "motion"):
        assert set(found[phase]["precisions"]) <= {"bfloat16", "float32"}
        assert found[phase]["precisions"]["bfloat16"] > found[phase]["precisions"].get("float32", 0)
        waits = found[phase]["waits"]
        assert {file for file in files(waits) if not file.startswith("stages/training/")} <= {
            "stages/networks/image_encoder.py",
            "stages/networks/unet.py",
        }
        # Of two batches what they are made of, two constants, and the time steps; then the losses.
        assert sum(waits.values()) <= 60
    for phase in ("single-frames", "motion"):
        assert found[phase]["peak"] > found[phase]["weights"]
