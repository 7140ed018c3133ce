"""Which places share access: credentials and endpoints are given once, for the store, and serve what lies beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ALIASES = {"s3a": "s3", "gcs": "gs"}
"""Schemes by which fsspec knows another one."""


def options_for(url: str, store: str | None, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """For fsspec, to open ``url``: the store's options where both have the same scheme (``s3``, ``sftp``, ...), else none.

    Args:
        url: of a catalogue, a medium, a folder of results. store: where the options are for; None means that there is none.
    """
    scheme, remote, _ = url.partition("://")
    beside = _ALIASES.get((store or "").partition("://")[0], (store or "").partition("://")[0])
    return dict(storage_options) if remote and _ALIASES.get(scheme, scheme) == beside else {}
