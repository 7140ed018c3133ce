"""Canonical JSON and digests: the same value gives the same bytes on any machine, in any order of insertion."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

DIGEST_BYTES = 20
"""Length of the blake2b digests used for keys and contents: 40 hexadecimal characters."""

_BLOCK = 1 << 20


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys, no spaces and floats by ``repr``: equal values give equal bytes.

    Mappings (string keys), lists, tuples, strings, numbers (numpy scalars too), booleans, None and enumerations (their values)
    are accepted. Models are not: what of them belongs to a key is theirs to say (``schemas.parameters.as_in_keys``).

    Raises:
        ValueError: for NaN and infinities, which JSON cannot hold.
        TypeError: for everything else; paths on purpose, because a key must not depend on where a file lies, and sets, because
            their order does not repeat.
    """
    return json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()


def _plain(value: object, where: str) -> object:
    if isinstance(value, enum.Enum):
        return _plain(value.value, where)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON cannot hold")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or isinstance(key, enum.Enum):
                raise TypeError(f"{where} has the key {key!r}; keys must be strings")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which has no canonical JSON")


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """blake2b of ``data``, 40 hexadecimal characters."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def digest_file(path: Path) -> str:
    """blake2b of a file's content, read in blocks."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def digest_value(value: object) -> str:
    """blake2b of the canonical JSON of ``value``."""
    return digest_bytes(canonical_json(value))
