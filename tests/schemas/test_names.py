"""Promises of suggestions: the near name is found, and nothing far-fetched is suggested."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.names import counted, nearest, suggestion

KNOWN = ("store", "renderer", "retry.attempts", "hair_segmentation")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("stoer", "store"), ("RENDERER", "renderer"), ("hair-segmentation", "hair_segmentation"), ("xyz", None), ("", None)],
)
def test_the_nearest_name(wrong: str, right: str | None) -> None:
    assert nearest(wrong, KNOWN) == right


def test_one_is_no_plural() -> None:
    assert [counted(count, "job") for count in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
    assert [counted(count, "person", "people") for count in (1, 5)] == ["1 person", "5 people"]


def test_without_a_near_name_all_are_listed() -> None:
    assert suggestion("rendrer", KNOWN) == "did you mean 'renderer'?"
    assert suggestion("xyz", ("b", "a")) == "known are a, b."


@given(st.text(max_size=30))
def test_only_known_names_are_suggested(text: str) -> None:
    assert nearest(text, KNOWN) in (*KNOWN, None)
