"""Promises of errors: they say what and what to do, and travel between processes without loss."""

from __future__ import annotations

import pickle

import pytest

from schemas.problems import HeadswapError, MediaError, ModelError, StoreError, SubjectError, UsageError

KINDS = [HeadswapError, MediaError, SubjectError, StoreError, ModelError]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("retryable", [False, True])
def test_an_error_travels_between_processes_whole(kind: type[HeadswapError], retryable: bool) -> None:
    error = kind("some_code", "The clip a.mp4 is empty.", "Give another.", retryable=retryable)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.code, again.message, again.remedy, again.retryable) == ("some_code", error.message, error.remedy, retryable)
    assert str(again) == "The clip a.mp4 is empty. Give another."


def test_a_usage_error_keeps_every_problem() -> None:
    error = pickle.loads(pickle.dumps(UsageError(["one", "two"], "Mend both.")))
    assert error.problems == ("one", "two")
    assert error.code == "usage"
    assert str(error) == "one\ntwo Mend both."
    assert not error.retryable
