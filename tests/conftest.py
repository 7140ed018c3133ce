"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real media and models that lies beside a development checkout; the test is skipped without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared (real media and models), which is not here")
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    """The repository's own examples."""
    return ROOT / "examples"
