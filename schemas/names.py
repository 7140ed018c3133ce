"""Names and numbers in messages: the name that was probably meant, the same way for columns, settings, models and stages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None where nothing is near enough to be worth suggesting."""
    names = sorted(known)
    by_fold = {known_name.casefold().replace("-", "_"): known_name for known_name in names}
    found = difflib.get_close_matches(name.casefold().replace("-", "_"), list(by_fold), n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def counted(count: int, one: str, more: str = "") -> str:
    """``1 job``, ``2 jobs``; ``more`` is the plural where an "s" does not make it."""
    return f"{count} {one if count == 1 else more or one + 's'}"


MOST_NAMED = 10
"""Clips or jobs that a message names one by one."""


def named(names: Sequence[str]) -> str:
    """Names for a message: the first ``MOST_NAMED``, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to append to a complaint about an unknown name, with its mark at the end: the nearest one, or all of them."""
    names = sorted(known)
    near = nearest(name, names)
    return f"did you mean {near!r}?" if near else f"known are {', '.join(names)}."
