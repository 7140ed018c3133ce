"""Keys: the same value gives the same key, another value another one, and what must not be in a key is refused."""

from __future__ import annotations

import enum
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from storage.keys import canonical_json, digest_bytes, digest_file, digest_value

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


def typed(value: object) -> object:
    """The value with the type of each scalar beside it, because 1 == 1.0 == True in Python."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value).__name__, repr(value))


def shuffled(value: object, order: random.Random) -> object:
    if isinstance(value, dict):
        items = [(key, shuffled(item, order)) for key, item in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(values)
def test_canonical_json_loses_nothing_so_distinct_values_have_distinct_keys(value: object) -> None:
    assert typed(json.loads(canonical_json(value))) == typed(value)


@given(values, st.randoms(use_true_random=False))
def test_order_of_insertion_does_not_matter(value: object, order: random.Random) -> None:
    assert canonical_json(shuffled(value, order)) == canonical_json(value)


@given(values, values)
def test_digests_are_equal_exactly_for_equal_values(first: object, second: object) -> None:
    same = json.dumps(typed(first), sort_keys=True) == json.dumps(typed(second), sort_keys=True)
    assert (digest_value(first) == digest_value(second)) == same


def test_form_is_pinned_because_every_key_in_every_store_depends_on_it() -> None:
    value = {"b": [1, 1.0, True, None], "a": {"é": "x\n"}, "c": 0.1}
    assert canonical_json(value) == b'{"a":{"\\u00e9":"x\\n"},"b":[1,1.0,true,null],"c":0.1}'
    assert digest_value({}) == "a22cbfd1a6f7d67d65014b57b47a96408c8f58b5"


def test_enumerations_tuples_and_numpy_scalars_are_plain_values_and_models_are_not() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Model(BaseModel):
        colour: Colour = Colour.RED
        size: tuple[int, int] = (1, 2)

    assert canonical_json(Model().model_dump()) == canonical_json({"size": [1, 2], "colour": "red"})
    with pytest.raises(TypeError, match="Model"):
        canonical_json(Model())
    assert canonical_json([np.float64(0.5), np.int32(3), np.bool_(True)]) == b"[0.5,3,true]"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_numbers_without_json_are_refused_by_place(number: float) -> None:
    with pytest.raises(ValueError, match=r"value\.a\[1\]"):
        canonical_json({"a": [1, number]})


@pytest.mark.parametrize("value", [Path("x"), {1, 2}, b"x", object(), {1: 2}, np.zeros(2)])
def test_what_does_not_belong_into_a_key_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json({"a": value})


def test_keys_do_not_depend_on_the_process() -> None:
    code = "from storage.keys import digest_value; print(digest_value({'b': [1.5, 'x'], 'a': {str(k): k for k in range(50)}}))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {digest_value({"a": {str(k): k for k in range(50)}, "b": [1.5, "x"]}) + "\n"}


@given(st.binary(max_size=5000))
def test_a_file_has_the_digest_of_its_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "digested"
    path.write_bytes(data)
    assert digest_file(path) == digest_bytes(data)
    assert len(digest_bytes(data)) == 40
