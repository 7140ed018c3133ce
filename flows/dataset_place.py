"""The place that a data set is written to: any folder or fsspec URL, and what goes wrong there."""

from __future__ import annotations

import ftplib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from schemas.configuration import Settings
from schemas.problems import HeadswapError, UsageError
from storage.sources import file_system

__all__ = ["Place", "failing", "is_of_shard"]

_OF_SHARD = re.compile(r"(train|validation)-\d{6}(\.index)?\.(tar|parquet|json)")


def is_of_shard(name: str) -> bool:
    """Whether a file is named as those of shards are: the shard, its index or its description."""
    return _OF_SHARD.fullmatch(name) is not None


@contextmanager
def failing(doing: str, url: str) -> Iterator[None]:
    """Raise what a file system raises inside, while ``doing`` (a clause such as "writing x"), as ``dataset_unwritable``."""
    try:
        yield
    except (OSError, EOFError, ftplib.Error) as error:
        raise HeadswapError(
            "dataset_unwritable",
            f"{doing[:1].upper()}{doing[1:]} in {url} failed: {type(error).__name__}: {error}.",
            "Check that --out is a folder or URL that can be written and has space left; the same command goes on from there.",
            retryable=True,
        ) from error


@dataclass(frozen=True)
class Place:
    """Where a data set lies: any folder or fsspec URL."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, url: str, settings: Settings) -> Place:
        """With what the settings say of places of its kind."""
        return cls(url, settings.storage_options_of(url))

    def connect(self) -> tuple[Any, str]:
        """The file system and the folder in it; UsageError where there is no such kind of place."""
        try:
            with failing("opening the place", self.url):
                system, root = file_system(self.url, self.options)
        except (ValueError, ImportError, TypeError) as error:
            raise UsageError(
                [f"A data set cannot be written to {self.url}: {error}."],
                "Give --out a folder or a URL such as s3://bucket/data, and storage_options and place_options what it takes.",
            ) from error
        return system, root.rstrip("/")

    def names(self) -> set[str]:
        """What lies there, after the folder was made if need be.

        Raises:
            UsageError: it holds shards that this program did not write.
            HeadswapError: ``dataset_unwritable``: it cannot be made or listed.
        """
        system, root = self.connect()
        with failing("making the folder of the data set", self.url):
            system.makedirs(root, exist_ok=True)
            system.invalidate_cache()
            try:
                found = {path.rsplit("/", 1)[-1] for path in system.ls(root, detail=False)}
            except FileNotFoundError:  # an object store has no empty folders
                found = set()
        ours = [name for name in found if is_of_shard(name)]
        # Indexes are written before their shards and removed after them: shards without any are somebody else's.
        if ours and not any(name.endswith(".index.parquet") for name in ours):
            raise UsageError(
                [f"{self.url} holds {min(ours)}, which is not of a data set of this program and would be replaced."],
                "Give --out another folder.",
            )
        return found
