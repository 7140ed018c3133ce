"""What the stages make of one small job, in numbers that another processor reproduces and another algorithm does not.

    python -m tests.golden.fingerprints        records them anew (after raising the versions of the stages that changed)

A digest would differ between processors (networks round differently), so means and spreads are kept, and compared with a
tolerance.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flows import pipeline
from flows.events import Events
from flows.planning import Planner
from flows.scheduling import Batch, DirectEngine
from flows.workers import WorkerPool
from schemas.catalogue import Job
from schemas.configuration import load_settings
from stages.networks.registry import ModelRegistry
from stages.video.decode import open_clip
from storage.artifacts import Artifact
from storage.store import ArtifactStore
from storage.tables import array
from tests.media import write_video

RECORD = Path(__file__).with_name("fingerprints.json")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FRAMES = 6


def numbers_of(artifacts: Sequence[Artifact]) -> dict[str, list[float]]:
    """Mean and spread of each table column and picture sequence, over all chunks."""
    found: dict[str, list[float]] = {}
    names = sorted({entry.path for artifact in artifacts for entry in artifact.manifest.files})
    for name in sorted({path.removesuffix(".parquet") for path in names if path.endswith(".parquet")}):
        table = pa.concat_tables([artifact.table(name) for artifact in artifacts])
        for column in table.column_names:
            values = array(table, column)
            if values.dtype.kind in "fiub":
                found[f"{name}.{column}"] = _summary(np.asarray(values, np.float64))
    for name in sorted({path.split("/")[0] for path in names if "/" in path}):
        pictures = [
            reader.read(frame) for reader in (artifact.pictures(name) for artifact in artifacts) for frame in reader.frames
        ]
        found[name] = _summary(np.concatenate([picture.ravel() for picture in pictures]).astype(np.float64))
    return found


def _summary(values: np.ndarray) -> list[float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return [0.0, 0.0, float(values.size)]
    return [float(f"{known.mean():.6g}"), float(f"{known.std():.6g}"), float(known.size)]


def run() -> dict[str, dict[str, Any]]:
    """Version and numbers of every stage that writes tables or pictures, from one job on a few frames of the examples."""
    with tempfile.TemporaryDirectory() as name, open_clip(EXAMPLES / "clip_smile.mp4") as clip:
        folder = Path(name)
        target = write_video(folder / "target.mp4", [picture.copy() for _, picture in clip.iterate(range(30, 30 + FRAMES))])
        job = Job(id="golden", source=str(EXAMPLES / "portrait_ben.png"), target=str(target), rights="synthetic")
        store = ArtifactStore.open(folder / "store")
        settings = load_settings({"store": store.url})
        planner = Planner([job], store, settings, ModelRegistry(folder / "models"))
        planner.survey()
        with WorkerPool(0) as pool:
            batch = Batch(planner, pool, Events(), output_url=str(folder / "out"))
            engine = DirectEngine(batch, threads=1)
            batch.run(engine)
            engine.close()
        assert batch.outcomes["golden"].failure is None, batch.outcomes["golden"].failure
        found = {}
        for node in planner.jobs["golden"].nodes:
            # From the store: of a delivered job the planner keeps keys only.
            found_again = [store.lookup(node.stage, unit.key) for unit in planner.step(node).units or () if unit.key]
            artifacts = [store.artifact(manifest) for manifest in found_again if manifest is not None]
            of = "job" if isinstance(node.owner, str) else "source" if node.owner.url == job.source else "target"
            numbers = numbers_of(artifacts)
            if numbers:
                found[f"{node.stage}:{of}"] = {"version": pipeline.stage(node.stage).version, "numbers": numbers}
        store.close()
        return dict(sorted(found.items()))


if __name__ == "__main__":
    lines = [f" {json.dumps(name)}: {json.dumps(found)}" for name, found in run().items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
