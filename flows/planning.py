"""From a catalogue to units of work: keys, what is committed already, what would run. Knows no Prefect and runs nothing.

A key needs the content digests of the inputs, which are known once those are committed; so the plan is resolved stage by stage,
with one bulk look-up for each stage over the whole catalogue, and goes on by itself as artifacts come in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from flows import pipeline
from flows.devices import precision_settled
from flows.patience import patiently, pause_before
from flows.problems import failure_of
from flows.requirements import sampled_as_wanted
from schemas.catalogue import Job, edits_of
from schemas.configuration import Settings
from schemas.parameters import StageParameters, as_in_keys
from schemas.places import name_of, place_of
from schemas.problems import HeadswapError, StoreError
from stages.contract import Chunk, Input, Owner, Scope
from stages.networks.registered import Registration
from stages.networks.registry import ModelRegistry
from storage import sources
from storage.artifacts import Manifest
from storage.failures import Failure, FailureLog
from storage.keys import digest_value
from storage.store import ArtifactStore

T = TypeVar("T")

JOB_RECORD = "job"
"""Stage name under which a finished job is committed: the shortcut that lets a cached catalogue be planned in one look-up."""
JOB_RECORD_VERSION = 1
DIGEST_THREADS = 8
DELIVER = "deliver"
"""The last step of a job: its record is committed, its video put where it was asked for. Not a stage: it writes no artifact."""


@dataclass(frozen=True, order=True)
class Clip:
    """A clip as a job means it: the medium and, for stages after the choice of the subject, which person."""

    url: str
    subject: str = ""

    @property
    def name(self) -> str:
        return name_of(self.url)


class Node(NamedTuple):
    """One stage of one clip or job, over all its chunks."""

    owner: Clip | str
    stage: str

    @property
    def label(self) -> str:
        return self.owner.name if isinstance(self.owner, Clip) else self.owner


class InputName(NamedTuple):
    stage: str
    of: str
    chunk: str


State = Literal["cached", "to run", "waiting", "quarantined"]


@dataclass
class Unit:
    """One stage of one chunk (or of the whole clip or job): what one commit is about."""

    node: Node
    chunk: Chunk | None
    key: str
    recipe: dict[str, Any]
    manifest: Manifest | None = None
    failure: Failure | None = None


@dataclass
class Step:
    """What is known of a node: its units once its inputs are committed."""

    node: Node
    units: list[Unit] | None = None
    failure: Failure | None = None

    @property
    def state(self) -> State:
        if self.failure is not None:
            return "quarantined"
        if self.units is None:
            return "waiting"
        if all(unit.manifest is not None for unit in self.units):
            return "cached"
        if any(unit.manifest is None and quarantined(unit.failure) for unit in self.units):
            return "quarantined"
        return "to run"

    @property
    def missing(self) -> list[Unit]:
        return [unit for unit in self.units or () if unit.manifest is None]


def quarantined(failure: Failure | None) -> bool:
    """A recorded failure that stands until it is asked for again."""
    return failure is not None and not failure.retryable


@dataclass
class JobPlan:
    """A job with everything that has to exist for it."""

    job: Job
    source: Clip
    target: Clip
    order: int
    nodes: tuple[Node, ...] = ()
    record_key: str | None = None
    record: Manifest | None = None
    """Set when the whole job was finished before, with exactly these inputs and parameters."""
    failure: Failure | None = None
    """Set when the job cannot even be planned, for instance because a file is missing."""
    edits: Mapping[str, Any] | None = None


@dataclass
class _Lookups:
    """What has been learnt of the store in this process."""

    steps: dict[Node, Step] = field(default_factory=dict)
    media: dict[str, str] = field(default_factory=dict)
    media_failures: dict[str, Failure] = field(default_factory=dict)
    chunks: dict[str, list[Chunk]] = field(default_factory=dict)


class Planner:
    """Resolves jobs into units. Thread-safe; one for each run.

    Attributes:
        settings: with what pipelines and devices say where nobody else did.
        precision_by_devices: whether it was these that said the precision of the diffusion renderer.
        stopping: ends the pauses of surveys that wait for a place to answer again.
        note: is told of these pauses.
    """

    def __init__(self, jobs: Sequence[Job], store: ArtifactStore, settings: Settings, registry: ModelRegistry) -> None:
        self.store = store
        asked = sampled_as_wanted(settings, jobs, registry.pipelines)
        self.settings = precision_settled(asked, jobs)
        self.precision_by_devices = self.settings is not asked
        self.registry = registry
        self.failures = FailureLog(store)
        self.stopping = threading.Event()
        self.note: Callable[[str], None] = lambda text: None
        self._known = _Lookups()
        self._lock = threading.RLock()
        self._models: dict[str, tuple[Path, str]] = {}
        self.jobs: dict[str, JobPlan] = {}
        self._upstream = pipeline.upstream()
        self._bounds = {"limit_bytes": settings.scratch_bytes, "largest_bytes": settings.limits.max_bytes}
        for position, job in enumerate(jobs):
            self.jobs[job.id] = self._describe(job, position)

    @cached_property
    def inputs(self) -> dict[str, tuple[str, str]]:
        """What jobs read, by its place (``schemas.places.place_of``): in which role, and the job."""
        found: dict[str, tuple[str, str]] = {}
        for plan in self.jobs.values():
            job = plan.job
            for role, address in (("source", job.source), ("target", job.target), ("edits", job.edits), ("subject", job.subject)):
                if address and not address.lstrip().startswith("{"):
                    found.setdefault(place_of(address), (role, job.id))
        return found

    # ---- the jobs ------------------------------------------------------------------------------------------------

    def _describe(self, job: Job, position: int) -> JobPlan:
        plan = JobPlan(
            job=job,
            source=Clip(job.source, "largest"),
            target=Clip(job.target, job.subject or self.settings.stages.track.subject),
            order=position,
        )
        plan.nodes = tuple(
            Node(self._owner(plan, owner, name), name) for owner, names in self._upstream.items() for name in names
        )
        return plan

    def _owner(self, plan: JobPlan, owner: Owner, stage: str) -> Clip | str:
        if owner == "job":
            return plan.job.id
        clip = plan.source if owner == "source" else plan.target
        # Stages before the choice of the subject are the same for every subject.
        return clip if pipeline.depends_on(stage, "track") else Clip(clip.url)

    def parameters(self, node: Node) -> StageParameters:
        """The stage's parameters from the settings, with what the catalogue's row says instead."""
        job = self.jobs[node.owner].job if isinstance(node.owner, str) else None
        parameters = self.settings.parameters(node.stage, job)
        if node.stage == "assemble" and job is not None and job.container is not None:
            return parameters.model_copy(update={"container": job.container})
        if node.stage == "track" and isinstance(node.owner, Clip):
            subject = node.owner.subject
            return parameters.model_copy(update={"subject": "reference" if is_reference(subject) else subject})
        return parameters

    def media(self, node: Node) -> dict[str, str]:
        """Addresses of the media that the stage reads, by owner."""
        stage = pipeline.stage(node.stage)
        if isinstance(node.owner, Clip):
            found = {"clip": node.owner.url} if "clip" in stage.media else {}
            if node.stage == "track" and is_reference(node.owner.subject):
                found["reference"] = node.owner.subject
            return found
        plan = self.jobs[node.owner]
        return {owner: getattr(plan, owner).url for owner in stage.media}

    def options(self, node: Node) -> dict[str, Any]:
        """What the catalogue's row adds to the key, restricted to what the stage declares."""
        declared = pipeline.stage(node.stage).options
        if not declared or isinstance(node.owner, Clip):
            return {}
        plan = self.jobs[node.owner]
        offered: dict[str, Any] = {
            "edits": plan.edits,
            "rights": plan.job.rights,
            "source_name": plan.source.name,
            "target_name": plan.target.name,
            "source_digest": self._known.media.get(plan.source.url),
            "target_digest": self._known.media.get(plan.target.url),
            "renderer": self._drawn_by(plan),
        }
        return {name: offered[name] for name in declared}

    def _drawn_by(self, plan: JobPlan) -> str | dict[str, Any]:
        """What drew the head, for the result's provenance: the renderer's name; of diffusion also its pipeline and terms."""
        registration = self._registration(plan)
        if registration is not None:
            terms = {"licence": registration.licence, "commercial": registration.commercial, "origin": registration.origin}
            notes = {"notes": list(registration.notes)} if registration.notes else {}
            return {"name": "diffusion", "pipeline": registration.name, "digest": registration.digest, **terms, **notes}
        return plan.job.renderer or self.settings.renderer or self.settings.stages.render.renderer

    def _registration(self, plan: JobPlan) -> Registration | None:
        """Of the pipeline that draws a job's head, if one does and is here."""
        render = Node(plan.job.id, "render")
        here = self.models(render)
        names = [name for name in pipeline.stage("render").pipelines_for(self.parameters(render)) if name in here]
        return self.registry.pipelines[names[0]] if names else None

    def pipeline_notes(self, plan: JobPlan) -> list[str]:
        """What a person should know of the pipeline that draws a job's head: that it was never trained, for instance."""
        registration = self._registration(plan)
        return [] if registration is None else [f"The pipeline {registration.name}: {note}" for note in registration.notes]

    def models(self, node: Node) -> dict[str, tuple[Path, str]]:
        """Registered models that the stage may use and that are here: name -> (file or folder, digest)."""
        found = {}
        stage = pipeline.stage(node.stage)
        for name in (*stage.models, *stage.pipelines_for(self.parameters(node))):
            if name not in self._models:
                path = self.registry.path(name)
                if path is None:
                    continue
                if self.settings.commercial:
                    self.registry.refuse_non_commercial([name])
                self._models[name] = (path, self.registry.digest(name))
            found[name] = self._models[name]
        return found

    def _seed(self, node: Node) -> int | None:
        """Of a clip's stages the settings' seed alone, because jobs with different seeds share them."""
        if not pipeline.stage(node.stage).seeded_for(self.parameters(node)):
            return None
        return self.settings.seed if isinstance(node.owner, Clip) else self.settings.seed_of(self.jobs[node.owner].job)

    # ---- resolving -----------------------------------------------------------------------------------------------

    def survey(self, *, skip_finished: bool = True) -> None:
        """Look up everything that can be known now, in bulk: media digests, finished jobs, then stage after stage.

        With ``skip_finished`` the intermediates of jobs that were finished before are not looked at. What does not answer is
        asked again, as often as work is tried (``settings.retry``).
        """
        self._digest_media()
        self._load_edits()
        self._look_up_jobs(skip_finished)
        wanted = [plan for plan in self.jobs.values() if plan.record is None and plan.failure is None]
        for name in pipeline.STAGES:
            nodes = {node for plan in wanted for node in plan.nodes if node.stage == name}
            self._patiently(partial(self.resolve, sorted(nodes, key=str)))

    def look_up(self, items: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Manifest]:
        """Manifests by stage and key, of those that are committed; waits for a store that does not answer."""
        return self._patiently(partial(self.store.lookup_many, items))

    def _patiently(self, ask: Callable[[], T]) -> T:
        return patiently(ask, self._pause, self.stopping, self._tell_pause)

    def _tell_pause(self, error: HeadswapError, seconds: float) -> None:
        self.note(f"{error.message} Trying again in {seconds:.0f} s.")

    def _pause(self, error: HeadswapError, attempt: int) -> float | None:
        return None if self.stopping.is_set() else pause_before(self.settings.retry, error, attempt)

    def _ask_for_each(
        self, names: Iterable[str], ask: Callable[[list[str]], dict[str, HeadswapError]]
    ) -> dict[str, HeadswapError]:
        """Errors that are left of ``ask`` for many names: those that may pass wait together, however many they are."""
        left, errors, attempt = list(names), dict[str, HeadswapError](), 0
        while left:
            attempt += 1
            found = ask(left)
            pauses = {name: self._pause(error, attempt) for name, error in found.items()}
            errors.update((name, error) for name, error in found.items() if pauses[name] is None)
            waits = {name: pause for name, pause in pauses.items() if pause is not None}
            left = list(waits)
            if left:
                self._tell_pause(found[left[0]], max(waits.values()))
            self.stopping.wait(max(waits.values(), default=0.0))
        return errors

    def _digest_media(self) -> None:
        urls = {url for plan in self.jobs.values() for url in (plan.source.url, plan.target.url)}
        urls |= {plan.target.subject for plan in self.jobs.values() if is_reference(plan.target.subject)}
        self._digest_urls(urls - self._known.media.keys())
        for plan in self.jobs.values():
            for url in (plan.source.url, plan.target.url, plan.target.subject):
                if url in self._known.media_failures and plan.failure is None:
                    plan.failure = self._known.media_failures[url]

    def _digest_urls(self, urls: set[str]) -> None:
        for url, error in self._ask_for_each(sorted(urls), self._read_digests).items():
            self._known.media_failures[url] = failure_of(error, stage="ingest", owner=url)

    def _read_digests(self, urls: list[str]) -> dict[str, HeadswapError]:
        """Learn the digests of media; gives back why some cannot be read."""
        try:
            self._known.media.update(sources.digest_many(urls, self.store, **self._bounds, anew=True))
        except HeadswapError:
            # One cannot be read: ask for each by itself, so that only its own jobs fail.
            with ThreadPoolExecutor(DIGEST_THREADS) as threads:
                found = dict(zip(urls, threads.map(self._digest, urls), strict=True))
            self._known.media.update((url, digest) for url, digest in found.items() if isinstance(digest, str))
            return {url: error for url, error in found.items() if isinstance(error, HeadswapError)}
        return {}

    def survey_clip(self, clip: Clip) -> dict[str, list[Manifest]]:
        """What is committed of a clip by stage, whether or not a job uses it; stages with nothing are left out.

        Raises:
            HeadswapError: the clip cannot be read.
        """
        self._digest_urls({clip.url} - self._known.media.keys())
        failure = self._known.media_failures.get(clip.url)
        if failure is not None:
            raise HeadswapError(failure.code, failure.message, failure.remedy)
        found: dict[str, list[Manifest]] = {}
        for name in pipeline.STAGES:
            if pipeline.stage(name).scope.of_clip:
                owner = clip if pipeline.depends_on(name, "track") else Clip(clip.url)
                (step,) = self._patiently(partial(self.resolve, [Node(owner, name)]))
                manifests = [unit.manifest for unit in step.units or () if unit.manifest is not None]
                if manifests:
                    found[name] = manifests
        return found

    def _digest(self, url: str) -> str | HeadswapError:
        try:
            return sources.digest_of(url, self.store, **self._bounds, anew=True)
        except HeadswapError as error:
            return error

    def _load_edits(self) -> None:
        wanted = [plan.job.id for plan in self.jobs.values() if plan.failure is None and plan.edits is None]
        for name, error in self._ask_for_each(wanted, self._read_edits).items():
            self.jobs[name].failure = failure_of(error, stage="retarget", owner=name)

    def _read_edits(self, jobs: list[str]) -> dict[str, HeadswapError]:
        """Learn the edits of jobs; gives back why some cannot be read."""
        errors: dict[str, HeadswapError] = {}
        for name in jobs:
            try:
                self.jobs[name].edits = self._edits_of(self.jobs[name].job)
            except HeadswapError as error:
                # Whoever reads a file that a person names calls all that goes wrong wrong usage.
                passing = sources.may_pass(error.__cause__)
                errors[name] = StoreError("store_unreachable", error.message, error.remedy, retryable=True) if passing else error
        return errors

    def _edits_of(self, job: Job) -> dict[str, Any]:
        return edits_of(job, storage_options=self.store.options_for(job.edits or "")).to_options()

    def _look_up_jobs(self, skip_finished: bool) -> None:
        for plan in self.jobs.values():
            if plan.failure is None:
                plan.record_key = digest_value(self._job_recipe(plan))
        if not skip_finished:
            return
        wanted = [(JOB_RECORD, plan.record_key) for plan in self.jobs.values() if plan.record_key]
        records = self._patiently(partial(self.store.lookup_many, wanted))
        finals = {
            plan.job.id: {name: records[JOB_RECORD, plan.record_key].facts[name] for name in pipeline.FINAL}
            for plan in self.jobs.values()
            if plan.record_key and (JOB_RECORD, plan.record_key) in records
        }
        items = [(name, str(key)) for keys in finals.values() for name, key in keys.items()]
        manifests = self._patiently(partial(self.store.lookup_many, items))
        for identifier, keys in finals.items():
            # A record whose artifacts were dropped (by fsck, say) does not count: the job is planned in full.
            if all((name, str(key)) in manifests for name, key in keys.items()):
                plan = self.jobs[identifier]
                plan.record = records[JOB_RECORD, plan.record_key or ""]
                for name, key in keys.items():
                    node = Node(identifier, name)
                    unit = Unit(node, None, str(key), {}, manifest=manifests[name, str(key)])
                    self._known.steps[node] = Step(node, [unit])

    def _job_recipe(self, plan: JobPlan) -> dict[str, Any]:
        """Everything that decides a job's results, without looking at intermediates."""
        recipe: dict[str, Any] = {"version": JOB_RECORD_VERSION}
        for node in plan.nodes:
            stage = pipeline.stage(node.stage)
            whose = "job" if isinstance(node.owner, str) else "source" if node.owner.url == plan.source.url else "target"
            recipe[f"{node.stage}:{whose}"] = {
                "version": stage.version,
                "schemas": [schema.identity for schema in stage.tables],
                "parameters": as_in_keys(self.parameters(node)),
                "data": stage.data_for(self.parameters(node)),
                "models": {name: digest for name, (_, digest) in sorted(self.models(node).items())},
                "media": {owner: self._known.media[url] for owner, url in self.media(node).items()},
                "options": self.options(node),
                "seed": self._seed(node),
            }
        return recipe

    def job_recipe(self, identifier: str) -> dict[str, Any]:
        return self._job_recipe(self.jobs[identifier])

    def step(self, node: Node) -> Step:
        with self._lock:
            return self._known.steps.setdefault(node, Step(node))

    def standing_failure(self, plan: JobPlan) -> Failure | None:
        """What failed for good in a stage of a job before and keeps it from being made, until it is asked for again."""
        for step in map(self.step, plan.nodes):
            if step.state == "quarantined":
                return step.failure or next(unit.failure for unit in step.missing if quarantined(unit.failure))
        return None

    def resolve(self, nodes: Iterable[Node]) -> list[Step]:
        """Bring the steps of ``nodes`` up to date, with one look-up of manifests and one of failures for all of them."""
        steps = [self.step(node) for node in nodes]
        for step in steps:
            if step.units is None:
                self._enumerate(step)
        open_units = [unit for step in steps for unit in step.units or () if unit.manifest is None]
        pairs = [(unit.node.stage, unit.key) for unit in open_units]
        manifests = self.store.lookup_many(pairs)
        failures = self.failures.lookup_many([pair for pair in pairs if pair not in manifests])
        for unit in open_units:
            unit.manifest = manifests.get((unit.node.stage, unit.key))
            unit.failure = failures.get((unit.node.stage, unit.key))
        return steps

    def lighten(self, identifier: str) -> list[Unit]:
        """Let go of what takes memory of a delivered job's intermediates, which nothing reads any more: files and recipes.

        A night has millions of pictures. Keys and folders stay, for retention. Gives back the units.
        """
        lightened = []
        for node in self.jobs[identifier].nodes:
            if node.owner == identifier and node.stage not in pipeline.FINAL:
                step = self._known.steps.get(node)  # none where the job was finished before
                for unit in (step and step.units) or ():
                    if unit.manifest is not None:
                        unit.manifest = replace(unit.manifest, files=(), containers=(), facts={}, recipe={})
                        unit.recipe = {}
                        lightened.append(unit)
        return lightened

    def clear_failures(self, units: Iterable[Unit]) -> None:
        """Forget why units failed: they are tried again."""
        for unit in units:
            if unit.failure is not None:
                self.failures.clear(unit.node.stage, unit.key)
                unit.failure = None

    def _enumerate(self, step: Step) -> None:
        node = step.node
        for url in self.media(node).values():
            if url in self._known.media_failures:
                step.failure = self._known.media_failures[url]
                return
        stage = pipeline.stage(node.stage)
        chunks: Sequence[Chunk | None] = (None,)
        if stage.scope.chunked:
            known = self.chunks(node.owner)
            if known is None:
                return
            chunks = known
        units = []
        for chunk in chunks:
            recipe = self._recipe(node, chunk)
            if recipe is None:
                return
            units.append(Unit(node, chunk, digest_value(recipe), recipe))
        step.units = units

    def chunks(self, owner: Clip | str) -> list[Chunk] | None:
        """Chunks of a clip (of the target, for a job); None while it is not ingested."""
        clip = owner if isinstance(owner, Clip) else self.jobs[owner].target
        with self._lock:
            if clip.url in self._known.chunks:
                return self._known.chunks[clip.url]
            step = self._known.steps.get(Node(Clip(clip.url), "ingest"))
            manifest = step.units[0].manifest if step and step.units else None
            if manifest is None:
                return None
            rows = self.store.artifact(manifest).table("chunks").to_pylist()
            found = [Chunk(row["chunk"], row["shot"], row["start"], row["stop"]) for row in rows]
            self._known.chunks[clip.url] = found
            return found

    def frames(self, owner: Clip | str) -> int | None:
        chunks = self.chunks(owner)
        return chunks[-1].stop if chunks else None

    def input_node(self, node: Node, needed: Input) -> Node:
        if isinstance(node.owner, Clip):
            owner = node.owner if pipeline.depends_on(needed.stage, "track") else Clip(node.owner.url)
            return Node(owner, needed.stage)
        plan = self.jobs[node.owner]
        return Node(self._owner(plan, needed.of, needed.stage), needed.stage)

    def dependencies(self, node: Node) -> set[Node]:
        return {self.input_node(node, needed) for needed in pipeline.stage(node.stage).inputs}

    def input_manifests(self, node: Node, chunk: Chunk | None) -> dict[InputName, tuple[Manifest, ...]] | None:
        """Committed inputs by stage, owner and ``same``, ``near``, ``around`` or ``all`` chunks; None while one is missing."""
        found: dict[InputName, tuple[Manifest, ...]] = {}
        margin = pipeline.stage(node.stage).margin(self.parameters(node))
        for needed in pipeline.stage(node.stage).inputs:
            step = self._known.steps.get(self.input_node(node, needed))
            if step is None or step.units is None:
                return None
            units = step.units
            reach = "all"
            if chunk is not None and pipeline.stage(needed.stage).scope.chunked:
                reach = needed.chunk
                units = [unit for unit in units if _within(unit.chunk, chunk, reach, margin)]
            manifests = tuple(unit.manifest for unit in units if unit.manifest is not None)
            if len(manifests) < len(units):
                return None
            found[InputName(needed.stage, needed.of, reach)] = manifests
        return found

    def _recipe(self, node: Node, chunk: Chunk | None) -> dict[str, Any] | None:
        inputs = self.input_manifests(node, chunk)
        if inputs is None:
            return None
        stage = pipeline.stage(node.stage)
        return {
            "stage": stage.name,
            "version": stage.version,
            "schemas": [schema.identity for schema in stage.tables],
            "parameters": as_in_keys(self.parameters(node)),
            "data": stage.data_for(self.parameters(node)),
            "inputs": {":".join(name): [manifest.digest for manifest in found] for name, found in sorted(inputs.items())},
            "media": {owner: self._known.media[url] for owner, url in sorted(self.media(node).items())},
            "models": {name: digest for name, (_, digest) in sorted(self.models(node).items())},
            "options": self.options(node),
            "frames": None if chunk is None else [chunk.start, chunk.stop],
            "seed": self._seed(node),
        }


def is_reference(subject: str) -> bool:
    """Whether a subject is given by a picture of its face rather than by size or number."""
    return bool(subject) and subject != "largest" and not subject.isdigit() and subject != "reference"


def _within(other: Chunk | None, chunk: Chunk, reach: str, margin: int) -> bool:
    """Whether a chunk is one that ``Input.chunk`` means; ``margin`` is the stage's."""
    assert other is not None
    if reach == "around":
        return other.shot == chunk.shot and other.start < chunk.stop + margin and other.stop > chunk.start - margin
    if reach == "near":
        return other.shot == chunk.shot and abs(other.index - chunk.index) <= 1
    return reach == "all" or other == chunk


def scope_of(node: Node) -> Scope:
    return pipeline.stage(node.stage).scope
