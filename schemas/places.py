"""Places by their addresses: which options open them, what they are called, and how they are shown.

The store's options also open what lies beside it, others what a person names them for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ALIASES = {"s3a": "s3", "gcs": "gs", "az": "abfs", "ssh": "sftp"}
"""Schemes by which fsspec knows another one."""

_ARCHIVES = frozenset({"zip", "tar", "libarchive"})
"""Schemes whose addresses begin with a file in an archive."""

_BUCKETS = frozenset({"s3", "gs", "abfs", "hf"})
"""Schemes whose addresses begin with a bucket: which machine is asked is an option. With others it may be in the address, and a
catalogue is untrusted input: its addresses must not decide to whom the store's credentials are shown."""


WRONG_OPTIONS = "See that storage_options and place_options hold what such a place takes (docs/configuration.md)."
"""A remedy where a file system refuses what it is opened with."""


def options_for(
    url: str, store: str | None, storage_options: Mapping[str, Any], place_options: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """For fsspec, to open ``url``.

    The first of these that holds: what is said of a place that it lies in, the longest one; the store's options where it lies
    beside the store (another bucket of the same service; else the same scheme, machine and user); none. Of a chained address
    (``zip://a.mp4::s3://bucket/b.zip``) the options of each of its links, by the link's scheme.

    Args:
        url: of a catalogue, a medium, a folder of results.
        store: where ``storage_options`` are for; None means that there is none.
        place_options: by the beginning of addresses (``s3://bucket``, ``s3://bucket/media``).
    """
    if "::" in url:
        links = [link for link in url.split("::") if "://" in link]
        found = {link.partition("://")[0]: options_for(link, store, storage_options, place_options) for link in links}
        return {scheme: options for scheme, options in found.items() if options}
    said = [place for place in place_options or {} if _lies_in(url, place)]
    if said:
        return dict((place_options or {})[max(said, key=lambda place: len(_split(place)[1]))])
    return dict(storage_options) if store is not None and _machine(url) == _machine(store) is not None else {}


def name_of(url: str) -> str:
    """What to call a file by its address or path: its name; a place without one by scheme and host.

    Credentials of an address, behind its "?" or before its host, have no place in messages and provenance. Of a chained address
    the first link is the file's own (``zip://a.mp4::https://host/b.zip``); one without an address (``simplecache``) is not.
    """
    address = next((link for link in url.split("::") if "://" in link), None)
    if address is None:
        return url.rstrip("/").rsplit("/", 1)[-1] or url
    # By hand: urllib raises for brackets, which buckets may have.
    scheme, _, rest = address.partition("://")
    if scheme.lower() in ("http", "https"):  # elsewhere "?" and "#" are letters of a name
        rest = rest.partition("?")[0].partition("#")[0]
    host, _, path = rest.partition("/")
    if not path and scheme.lower() in _ARCHIVES:
        return host or name_of(url.partition("::")[2])  # what lies at the top of it, or the archive itself
    return path.rstrip("/").rsplit("/", 1)[-1] or f"{scheme}://{host.rpartition('@')[2]}"


def without_credentials(url: str) -> str:
    """An address as it may be shown: without a name and password before the host, and without what stands behind the "?" of a web
    address, which may be a signature."""
    links = [re.sub(r"^(\w[\w+.-]*://)[^/]*@", r"\1", link) for link in url.split("::")]
    return "::".join(re.sub(r"^(https?://[^?#]*)\?.*$", r"\1?…", link, flags=re.IGNORECASE | re.DOTALL) for link in links)


def expanded_path(path: str | os.PathLike[str]) -> Path:
    """A path of this machine as a person writes it: with ``~`` for a home. As in a shell that of nobody stays as it is, for which
    pathlib's ``expanduser`` raises."""
    return Path(os.path.expanduser(path))


def is_remote(url: str) -> bool:
    """Whether an address is that of another place than this machine's disks."""
    return _machine(url) is not None


def _lies_in(url: str, place: str) -> bool:
    (scheme, rest), (of_place, beginning) = _split(url), _split(place)
    # "s3://" is the beginning of all that lies there.
    return scheme == of_place and (not beginning or f"{rest}/".startswith(f"{beginning.rstrip('/')}/"))


def _split(url: str) -> tuple[str, str]:
    """The scheme, by one name where fsspec knows several, and what follows; no scheme for a path."""
    scheme, remote, rest = url.partition("://")
    return (_ALIASES.get(scheme, scheme), rest) if remote else ("", url)


def _machine(url: str) -> tuple[str, str] | None:
    """Who is asked for an address, as whom: scheme, and what the address says of machine and user; None for a path."""
    scheme, rest = _split(url)
    if scheme in ("", "file", "local"):
        return None
    authority = rest.partition("/")[0].lower()  # not by urllib, which takes brackets for an address of IPv6 and raises
    # abfs://container@account.dfs.core.windows.net/...
    return scheme, authority.partition("@")[2] if scheme in _BUCKETS else authority
