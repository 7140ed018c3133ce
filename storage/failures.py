"""Why work on a key failed: kept beside the commits, so that a bad input is not tried again until somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.store import FEW, ArtifactStore


class Failure(BaseModel):
    """One record. ``owner`` is the clip or job as the catalogue names it; ``when`` ISO 8601, UTC, of the last attempt."""

    model_config = ConfigDict(extra="forbid")

    code: str
    message: str
    remedy: str = ""
    retryable: bool = False
    trace: str = ""
    stage: str
    key: str
    owner: str = ""
    attempts: int = 1
    when: str = ""


class FailureLog:
    """The tree ``failures/<stage>/<key>.json`` of a store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def record(self, stage: str, key: str, failure: Failure) -> None:
        """Write down a failure, replacing an older one of the same key."""
        self._store.write_document(_path(stage, key), failure.model_dump())

    def lookup(self, stage: str, key: str) -> Failure | None:
        value = self._store.read_document(_path(stage, key))
        return None if value is None else _parse(value)

    def lookup_many(self, items: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Failure]:
        """Failures of those items that have one: one listing of the tree per stage, none where few of it are asked for."""
        wanted = {_path(stage, key): (stage, key) for stage, key in items}
        asked = Counter(stage for stage, _ in wanted.values())
        present = {path for path, (stage, _) in wanted.items() if asked[stage] <= FEW}
        for stage in (stage for stage, count in asked.items() if count > FEW):
            present.update(path for path in self._store.list_documents(f"failures/{stage}") if path in wanted)
        return {wanted[path]: failure for path, failure in self._read(present)}

    def clear(self, stage: str, key: str) -> None:
        """Forget a failure: the work may be tried again. None may be there."""
        self._store.delete_document(_path(stage, key))

    def of_stage(self, stage: str) -> dict[str, Failure]:
        """Every failure of a stage, by key: one listing, for stages of which few things fail."""
        return {failure.key: failure for _, failure in self._read(self._store.list_documents(f"failures/{stage}"))}

    def all(self) -> list[Failure]:
        """Every failure, in order of stage and key."""
        return [failure for _, failure in self._read(self._store.list_documents("failures"))]

    def _read(self, paths: Iterable[str]) -> list[tuple[str, Failure]]:
        read = self._store.read_documents(sorted(paths))
        parsed = [(path, _parse(value)) for path, value in sorted(read.items())]
        return [(path, failure) for path, failure in parsed if failure is not None]


def _path(stage: str, key: str) -> str:
    return f"failures/{stage}/{key}.json"


def _parse(value: dict[str, object]) -> Failure | None:
    """None where the record is damaged: the work is then simply tried again."""
    try:
        return Failure.model_validate(value)
    except ValidationError:
        return None
