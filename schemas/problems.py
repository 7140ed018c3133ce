"""The errors this project raises on purpose: what went wrong, with which file, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.places import told_without_credentials


class HeadswapError(Exception):
    """A failure that a person can act on. Of addresses in its texts credentials are left out, wherever they came from.

    Attributes:
        code: stable snake_case name, for scripts and for grouping in reports (``file_missing``, ``no_face``).
        message: one sentence that names the file or the clip.
        remedy: one sentence that says what to do.
        retryable: whether the same work may succeed later without any change (network, memory), as opposed to a bad
            input, which is quarantined until asked for again.
        trace: where it happened, as text that survives the way between processes; empty where the message says it all.
    """

    trace: str = ""

    def __init__(self, code: str, message: str, remedy: str = "", *, retryable: bool = False) -> None:
        self.code = code
        self.message = told_without_credentials(message)
        self.remedy = told_without_credentials(remedy)
        super().__init__(code, self.message, self.remedy)
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.code, self.message, self.remedy, self.retryable, self.trace))


def _rebuild(kind: type[HeadswapError], code: str, message: str, remedy: str, retryable: bool, trace: str) -> HeadswapError:
    error = kind.__new__(kind)
    HeadswapError.__init__(error, code, message, remedy, retryable=retryable)
    error.trace = trace
    return error


class MediaError(HeadswapError):
    """A video or picture that cannot be used: missing, damaged, not what its name says, or over a limit."""


class SubjectError(HeadswapError):
    """No usable person: no face anywhere, or not the one asked for."""


class StoreError(HeadswapError):
    """The artifact store cannot be reached, is full, or holds something that is not what was committed."""


class ModelError(HeadswapError):
    """Weights that are missing, damaged, of the wrong kind, or not allowed by their licence."""


class UsageError(HeadswapError):
    """Wrong usage or configuration. Holds every problem found, so that all can be mended at once."""

    def __init__(self, problems: Sequence[str], remedy: str = "") -> None:
        self.problems = tuple(map(told_without_credentials, problems))
        super().__init__("usage", "\n".join(self.problems), remedy)

    def __reduce__(self) -> tuple[object, ...]:
        return (UsageError, (self.problems, self.remedy))
