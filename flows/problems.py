"""From an error to the record of a failure."""

from __future__ import annotations

import datetime

from schemas.places import told_without_credentials, without_credentials
from schemas.problems import HeadswapError
from storage.failures import Failure


def failure_of(
    error: HeadswapError, *, stage: str, owner: str, key: str = "", attempts: int = 1, retryable: bool | None = None
) -> Failure:
    """``retryable`` overrides the error's own word, for what was tried often enough."""
    return Failure(
        code=error.code,
        message=error.message,
        remedy=error.remedy,
        retryable=error.retryable if retryable is None else retryable,
        trace=told_without_credentials(error.trace),
        stage=stage,
        key=key,
        owner=without_credentials(owner),
        attempts=attempts,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
