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

_CACHES = frozenset({"simplecache", "filecache", "blockcache", "cached"})
"""What may stand before an address whose file it copies."""

_CONTAINERS = _ARCHIVES | _CACHES | {"dir", "reference", "asynclocal"}
"""What another address can follow behind "::"."""

_HOSTLESS = _CONTAINERS | {"file", "local", "memory", "git", "github"}
"""Schemes whose addresses name no machine and user, so that "@" is a letter of a name."""

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
    if len(_links(url)) > 1:
        links = [link for link in _links(url) if "://" in link]
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
    links = _links(url)
    number, address = next(((number, link) for number, link in enumerate(links) if "://" in link), (0, ""))
    if not address:
        return url.rstrip("/").rsplit("/", 1)[-1] or url
    scheme, _, rest = address.partition("://")
    rest = _without_query(scheme, _without_user(scheme, rest))[0]
    host, _, path = ("", "", rest) if scheme.lower() in _HOSTLESS else rest.partition("/")
    if not path and scheme.lower() in _ARCHIVES and links[number + 1 :]:
        return name_of("::".join(links[number + 1 :]))  # the archive itself
    return path.rstrip("/").rsplit("/", 1)[-1] or f"{scheme}://{host}"


def without_credentials(url: str) -> str:
    """An address as it may be shown: without a name and password before the host, and without what stands behind the "?" or "#"
    of a web address, which may be a signature or a token."""
    return "::".join(_shown(link) for link in _links(url))


def told_without_credentials(text: str) -> str:
    """A text in which addresses stand, as it may be shown: each ``without_credentials``.

    Where one ends is not always to be seen, for clients of remote places write them with blanks and quotes in them: behind a web
    address the values of all that looks like a part of its query are left out, to the end of the text.
    """
    if "://" not in text:
        return text
    before, *found = _ADDRESSES.split(text)
    return before + "".join(_told(address) for address in found)


def without_values(text: str) -> str:
    """A text without the values of what looks like a web address's query (``?sig=...&key=...``)."""
    return _VALUE.sub(r"\1…", text)


_ADDRESSES = re.compile(r"(?<![\w+.-])(?=\w[\w+.-]*://)")
_VALUE = re.compile(r"([?&;][\w.%$-]+=)[^&\s'\"]+")


def _told(text: str) -> str:
    """A text that begins with an address."""
    scheme, _, rest = text.partition("://")
    authority = re.match(r"[^/?#\n]*", rest)[0]  # type: ignore[index]
    # A password may hold blanks and quotes; a colon and a blank, or a port, is none.
    if scheme.lower() not in _HOSTLESS and re.match(r"[^\s:@]*:(?!\s|\d+(?:\s|$))[^\n]*@", authority):
        rest = rest[authority.rindex("@") + 1 :]
    run = re.match(r"[^\s'\"]*", rest)[0]  # type: ignore[index]
    behind = rest[len(run) :]
    if _is_of_web(scheme):
        behind = without_values(re.sub(r"([?#])[^\s'\"=&?#]+(?=[?#\s'\"]|$)", r"\1…", behind))
    return without_credentials(f"{scheme}://{run}") + behind


def _links(url: str) -> list[str]:
    """The links of a chained address, from the file's own to where it lies; of another address or a path itself."""
    found: list[str] = []
    rest = url
    while True:
        link, chained, others = rest.partition("::")
        if not chained or link.partition("://")[0].lower() not in _CONTAINERS:
            return [*found, rest]
        found.append(link)
        rest = others


def _shown(link: str) -> str:
    scheme, remote, rest = link.partition("://")
    if not remote:
        return link
    return f"{scheme}://{''.join(_without_query(scheme, _without_user(scheme, rest)))}"


def _without_user(scheme: str, rest: str) -> str:
    """What follows a scheme, without a name and password. By hand: urllib raises for brackets, which buckets may have."""
    if scheme.lower() in _HOSTLESS:
        return rest
    authority = re.match(r"[^/?#]*", rest)[0]  # type: ignore[index]
    user, named, _ = authority.rpartition("@")
    if named:
        # abfs://container@account.dfs.core.windows.net/...
        return rest if scheme.lower() in ("abfs", "abfss", "az") and ":" not in user else rest[len(user) + 1 :]
    # A password with "/", "?" or "#" in it: no port is like what stands behind the colon.
    port = re.sub(r"^\[[^]]*\]", "", authority).partition(":")[2]
    return rest.rpartition("@")[2] if "@" in rest and port and not port.isdigit() else rest


def _without_query(scheme: str, rest: str) -> tuple[str, str]:
    """What stands before the query of a web address, and a sign where there was one; elsewhere "?" and "#" are letters."""
    found = re.search(r"[?#]", rest) if _is_of_web(scheme) else None
    if found is None or found.end() == len(rest):
        return rest, ""
    return rest[: found.start()], f"{found[0]}…"


def _is_of_web(scheme: str) -> bool:
    return scheme.lower().rpartition("+")[2] in ("http", "https")


def expanded_path(path: str | os.PathLike[str]) -> Path:
    """A path of this machine as a person writes it: with ``~`` for a home. As in a shell that of nobody stays as it is, for which
    pathlib's ``expanduser`` raises."""
    return Path(os.path.expanduser(path))


def whole_address(url: str) -> str:
    """An address that means the same whatever folder it is used from: a path of this machine from its root on."""
    return url if "://" in url else str(expanded_path(url).absolute())


def place_of(url: str) -> str:
    """The same for every way to write an address of one file: a path of this machine also through links; without caches in front,
    credentials, and what other names a scheme goes by."""
    links = _links(url)
    while len(links) > 1 and links[0].partition("://")[0].lower() in _CACHES:
        del links[0]
    scheme, rest = _split(links[0]) if len(links) == 1 else ("", "")
    if len(links) > 1:
        return "::".join(links)
    if scheme.lower() in ("", "file", "local"):
        return os.path.realpath(expanded_path(rest))
    if scheme.lower() in _HOSTLESS:
        return f"{scheme.lower()}://{rest.lstrip('/')}"
    container = re.match(r"[^/@]*@[^/]*", rest) if scheme == "abfs" else None  # abfs://container@account.dfs.core.windows.net/...
    if container is not None:
        rest = container[0].partition("@")[0] + rest[container.end() :]
    host, slash, path = _without_user(scheme, rest).partition("/")
    return f"{scheme.lower()}://{host if scheme in _BUCKETS else host.lower()}{slash}{path}"


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
    return (_ALIASES.get(scheme.lower(), scheme), rest) if remote else ("", url)


def _machine(url: str) -> tuple[str, str] | None:
    """Who is asked for an address, as whom: scheme, and what the address says of machine and user; None for a path."""
    scheme, rest = _split(url)
    if scheme in ("", "file", "local"):
        return None
    authority = rest.partition("/")[0].lower()  # not by urllib, which takes brackets for an address of IPv6 and raises
    # abfs://container@account.dfs.core.windows.net/...
    return scheme, authority.partition("@")[2] if scheme in _BUCKETS else authority
