"""A small catalogue on stages that need no pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import pipeline
from flows.events import Events
from flows.planning import Planner
from flows.scheduling import Batch, DirectEngine
from flows.workers import WorkerPool
from schemas.catalogue import Job
from schemas.configuration import Settings, load_settings
from stages.networks.registry import ModelRegistry
from storage.store import ArtifactStore
from tests.flows import fakes


@pytest.fixture
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def clear() -> None:
        for cached in (pipeline.stage, pipeline.order, pipeline.depends_on):
            cached.cache_clear()
        fakes.executions.clear()
        fakes.trouble.clear()
        fakes.meddling.clear()

    clear()
    monkeypatch.setattr(pipeline, "STAGES", fakes.STAGES)
    yield
    clear()


@pytest.fixture
def clips(tmp_path: Path) -> Callable[[str, int], Path]:
    def make(name: str, frames: int) -> Path:
        path = tmp_path / "media" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"name": name, "frames": frames}))
        return path

    return make


class Night:
    """Runs jobs on one store as often as a test likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore.open(folder / "store")
        self.out = folder / "out"

    def settings(self, **flags: object) -> Settings:
        return load_settings({"store": self.store.url, "retry.backoff_seconds": 0, "stages.ingest.chunk_frames": 10, **flags})

    def planner(self, jobs: list[Job], **flags: object) -> Planner:
        planner = Planner(jobs, self.store, self.settings(**flags), ModelRegistry(self.folder / "models"))
        planner.survey()
        return planner

    def run(self, jobs: list[Job], *, retry_failed: bool = False, **flags: object) -> Batch:
        fakes.executions.clear()
        planner = self.planner(jobs, **flags)
        with WorkerPool(0) as pool:
            batch = Batch(planner, pool, Events(), output_url=str(self.out), retry_failed=retry_failed)
            engine = DirectEngine(batch, threads=3)
            batch.run(engine)
            engine.close()
        return batch


@pytest.fixture
def night(tmp_path: Path, fake_stages: None) -> Night:
    del fake_stages
    return Night(tmp_path)


def job(name: str, source: Path, target: Path, **more: object) -> Job:
    return Job.model_validate({"id": name, "source": str(source), "target": str(target), "rights": "synthetic", **more})
