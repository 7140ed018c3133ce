"""What a file system reports, in words a person can act on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.places import is_remote, without_credentials, without_values
from schemas.problems import StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def store_error(error: BaseException, doing: str, url: str, what: str = "the store") -> StoreError:
    """The ``StoreError`` for what a file system raised while ``doing`` (a clause such as "writing x") in the store at ``url``, or
    in another place that ``what`` says."""
    number = getattr(error, "errno", None)
    detail = f"{type(error).__name__}: {error}".replace(url, without_credentials(url))
    if is_remote(url):  # clients write addresses in ways of their own, also without scheme and host
        detail = without_values(detail)
    url = without_credentials(url)
    if number in _FULL:
        return StoreError(
            "store_full",
            f"No space is left for {doing} in {what} {url}.",
            "Free space there, run `headswap gc` (what it removes: docs/operations.md, Space), or choose another --store; "
            "what was committed is safe.",
            retryable=True,
        )
    if number in _DENIED or isinstance(error, PermissionError):
        return StoreError(
            "store_denied",
            f"{doing[:1].upper()}{doing[1:]} in {what} {url} is not allowed ({detail}).",
            "Check the permissions of that place and the credentials in the environment.",
        )
    return StoreError(
        "store_unreachable",
        f"{what[:1].upper()}{what[1:]} {url} could not be reached while {doing} ({detail}).",
        "Check the address, the network and the credentials in the environment; the run can be repeated at any time.",
        retryable=True,
    )


@contextmanager
def translated(doing: str, url: str) -> Iterator[None]:
    """Raise what a file system raises inside as a ``StoreError``."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise store_error(error, doing, url) from error
