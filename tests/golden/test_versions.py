"""A stage whose output changed must have a new version, or stores would mix old results with new ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.fingerprints import RECORD, run


@pytest.fixture(scope="module")
def now() -> dict[str, dict[str, Any]]:
    return run()


RECORDED: dict[str, dict[str, Any]] = json.loads(RECORD.read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_an_output_that_changed_has_a_new_version(name: str, now: dict[str, dict[str, Any]]) -> None:
    assert name in now, "the stage is gone: record anew with python -m tests.golden.fingerprints"
    recorded, found = RECORDED[name], now[name]
    assert found["version"] == recorded["version"], (
        f"{name} has a new version: record it with python -m tests.golden.fingerprints"
    )
    remedy = f"raise the version of {name}, then record it with python -m tests.golden.fingerprints"
    assert found["numbers"].keys() == recorded["numbers"].keys(), remedy
    for column, (mean, spread, count) in recorded["numbers"].items():
        tolerance = 0.02 * max(spread, abs(mean)) + 1e-4
        assert found["numbers"][column] == [pytest.approx(mean, abs=tolerance), pytest.approx(spread, abs=tolerance), count], (
            f"{column}: {remedy}"
        )


def test_every_stage_that_writes_tables_or_pictures_is_recorded(now: dict[str, dict[str, Any]]) -> None:
    assert now.keys() == RECORDED.keys()
