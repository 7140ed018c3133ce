"""Packages that bring networks of their own, which decide what stages write: their versions are part of these stages' keys."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

MEDIAPIPE: Mapping[str, str] = {"mediapipe": version("mediapipe")}
"""For ``stages.contract.Stage.data``."""
