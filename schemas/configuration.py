"""Everything that can be set about a run, and where each value came from.

Flags stand over environment variables, over a YAML file, over defaults. ``Settings.stages`` holds the parameters that are
part of the keys of artifacts; nothing else here may change a result (but ``seed``, which is part of keys as well).
"""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from schemas import parameters
from schemas.catalogue import Job
from schemas.names import suggestion
from schemas.parameters import DiffusionParameters, Precision
from schemas.places import expanded_path, is_remote, options_for, told_without_credentials, whole_address
from schemas.problems import UsageError
from schemas.written import read_yaml

PREFIX = "HEADSWAP_"
FILE_VARIABLE = "HEADSWAP_CONFIG"
"""Names the YAML file where no ``--config`` does."""

_HIDDEN = ("storage_options", "place_options")
"""May hold credentials: never shown."""

_PATHS = ("store", "out", "models", "scratch", "provenance.certificate", "provenance.key")
"""Paths, or addresses that can be paths."""

_OPTIONS = ("store", "out", "engine", "profile", "renderer", "workers", "seed", "retention", "commercial")
"""Settings that have an option of their own on the command line."""


def usable_cores() -> int:
    """CPU cores that this process may use: its affinity, and the quota of its control group where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        return max(1, cores)  # no control group of version 2: affinity is all there is
    return max(1, cores if quota == "max" else min(cores, -(-int(quota) // int(period))))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Section):
    """Media beyond these are refused before anything is decoded at length: a catalogue is untrusted input."""

    max_frames: int = Field(1_000_000, ge=1, le=2**62, description="frames of one video")
    max_pixels: int = Field(36_000_000, ge=1, le=2**32, description="pixels of one frame (8K UHD has 33 million)")
    max_bytes: int = Field(64 * 2**30, ge=1, le=2**62, description="size of one media file")
    max_seconds: float = Field(6 * 3600.0, gt=0, description="length of one video")


class TimeLimits(_Section):
    """Seconds of wall clock that one unit of a stage (a clip, or a chunk of it) may take; then it fails and may be retried.

    ``per_frame`` is added for each frame of the unit, so that long videos have longer.
    """

    per_frame: float = Field(2.0, ge=0, description="added for each frame")

    ingest: float = Field(7200.0, gt=0, description="per clip")
    landmarks: float = Field(1800.0, gt=0, description="per chunk")
    track: float = Field(1800.0, gt=0, description="per clip")
    fit3dmm: float = Field(3600.0, gt=0, description="per clip")
    masks: float = Field(3600.0, gt=0, description="per chunk")
    inpaint: float = Field(7200.0, gt=0, description="per clip")
    retarget: float = Field(1800.0, gt=0, description="per job")
    render: float = Field(7200.0, gt=0, description="per chunk")
    encode: float = Field(3600.0, gt=0, description="per chunk")
    assemble: float = Field(3600.0, gt=0, description="per job")
    measure: float = Field(14_400.0, gt=0, description="per job")

    def of(self, stage: str, frames: int = 0) -> float:
        """Seconds for ``stage`` over that many frames; based on an hour for a stage that has no entry here."""
        return float(getattr(self, stage, 3600.0)) + self.per_frame * frames


class Retry(_Section):
    """How often work that failed for a passing reason (network, memory) is tried again; bad input never is."""

    attempts: int = Field(3, ge=1, le=20, description="tries in all, the first included")
    backoff_seconds: float = Field(2.0, ge=0, description="pause before the second try")
    backoff_factor: float = Field(3.0, ge=1, description="each further pause is longer by this factor")
    backoff_limit_seconds: float = Field(300.0, ge=0, description="longest pause")

    def pauses(self) -> list[float]:
        """Seconds to wait before each try but the first."""
        return [
            min(self.backoff_seconds * self.backoff_factor**number, self.backoff_limit_seconds)
            for number in range(self.attempts - 1)
        ]


class Provenance(_Section):
    """Signing of results (C2PA). Without a certificate results carry their provenance unsigned."""

    certificate: str | None = Field(None, description="PEM file with the certificate chain that signs results")
    key: str | None = Field(None, description="PEM file with the certificate's private key")

    @model_validator(mode="after")
    def _both_or_none(self) -> Provenance:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give both certificate and key, or neither")
        return self


class Stages(_Section):
    """The parameters of every stage, by its name."""

    ingest: parameters.IngestParameters = parameters.IngestParameters()
    landmarks: parameters.LandmarkParameters = parameters.LandmarkParameters()
    track: parameters.TrackParameters = parameters.TrackParameters()
    fit3dmm: parameters.FitParameters = parameters.FitParameters()
    masks: parameters.MaskParameters = parameters.MaskParameters()
    inpaint: parameters.InpaintParameters = parameters.InpaintParameters()
    retarget: parameters.RetargetParameters = parameters.RetargetParameters()
    render: parameters.RenderParameters = parameters.RenderParameters()
    encode: parameters.EncodeParameters = parameters.EncodeParameters()
    assemble: parameters.AssembleParameters = parameters.AssembleParameters()
    measure: parameters.MeasureParameters = parameters.MeasureParameters()

    @model_validator(mode="after")
    def _one_crop_size(self) -> Stages:
        sizes = {
            name: getattr(self, name).crop_size for name in type(self).model_fields if hasattr(getattr(self, name), "crop_size")
        }
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"stages.{name}.crop_size {size}" for name, size in sizes.items())
            raise ValueError(f"all stages must count in the same crop: {listed}")
        return self

    def of(self, stage: str) -> parameters.StageParameters:
        found = getattr(self, stage)
        assert isinstance(found, parameters.StageParameters)
        return found


@dataclass(frozen=True)
class Setting:
    """One value as it is in force, for ``doctor`` and for people who wonder."""

    name: str
    value: str
    origin: str
    """``default``, ``--seed``, ``HEADSWAP_SEED`` or ``night.yaml: seed``."""
    description: str


class Settings(_Section):
    """Everything that can be set about a run. Made by ``load_settings``; the constructor takes values as they are."""

    store: str | None = Field(None, description="folder or URL of the artifact store")
    out: str | None = Field(None, description="folder or URL for videos and the report; default: `results` in the store")
    engine: Literal["prefect", "direct"] = Field("prefect", description="`direct` runs the same plan without a server")
    profile: Literal["demo", "full"] = Field(
        "full", description="which networks the diffusion renderer takes: the registered `headswap-demo` or `headswap-full`"
    )
    renderer: Literal["warp", "diffusion"] | None = Field(
        None, description="for jobs that name none; default: `stages.render.renderer`"
    )
    workers: int = Field(default_factory=usable_cores, ge=1, le=1024, description="processes; default: the usable CPU cores")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?(,cuda:\d+)*)$",
        description="of the diffusion renderer: `auto` (every GPU, else the CPU), `cpu`, `cuda`, or some: `cuda:0,cuda:1`",
    )
    seed: int = Field(0, ge=0, le=2**62, description="added to the seed of every job")
    retention: Literal["all", "resume", "results"] = Field(
        "all", description="which intermediates stay: all, what resuming needs, or none but the results"
    )
    commercial: bool = Field(False, description="refuse models whose licence forbids commercial use")
    models: str = Field("~/.cache/headswap/models", description="folder of the registered models")
    scratch: str | None = Field(
        None,
        description="fast local folder for what is in the making; default: `scratch` in a local store, else the temporary folder",
    )
    scratch_bytes: int = Field(50 * 2**30, ge=2**20, description="most that local copies of remote media may take")
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        description="for fsspec, of the store and what lies beside it, as JSON in a variable or flag; never shown",
    )
    place_options: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="for fsspec, of other places, by the beginning of their addresses (`s3://media`); never shown",
    )
    worker_memory: int = Field(8 * 2**30, ge=2**28, description="bytes of memory at which a worker process is stopped")
    limits: Limits = Limits()
    time_limits: TimeLimits = TimeLimits()
    retry: Retry = Retry()
    provenance: Provenance = Provenance()
    stages: Stages = Stages()

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def storage_options_of(self, url: str) -> dict[str, Any]:
        """For fsspec, of a place: ``place_options``, or ``storage_options`` beside the store (``schemas.places.options_for``)."""
        return options_for(url, self.store, self.storage_options, self.place_options)

    def storage_options_of_data(self, url: str) -> dict[str, Any]:
        """Of a data set to train on: what is said of a remote store is said of it where none is set, or a local one."""
        store = self.store if self.store is not None and is_remote(self.store) else url
        return options_for(url, store, self.storage_options, self.place_options)

    def hidden(self) -> dict[str, Any]:
        """What a run's record lacks, for it may hold credentials."""
        return {name: getattr(self, name) for name in _HIDDEN}

    def parameters(self, stage: str, job: Job | None = None) -> parameters.StageParameters:
        """Parameters of a stage; with a job, its own choice of subject and renderer stands over the configuration's.

        ``job.subject`` concerns the *target*: pass no job for the track stage of a source.
        """
        found = self.stages.of(stage)
        if isinstance(found, parameters.TrackParameters) and job is not None and job.subject is not None:
            return found.model_copy(update={"subject": job.subject})
        if isinstance(found, parameters.RenderParameters):
            renderer = (job.renderer if job is not None else None) or self.renderer or found.renderer
            if renderer == "diffusion":
                model = found.diffusion.model or f"headswap-{self.profile}"
                diffusion = found.diffusion.model_copy(update={"model": model})
            else:
                diffusion = parameters.DiffusionParameters()  # what a renderer does not read must not decide its key
            return found.model_copy(update={"renderer": renderer, "diffusion": diffusion})
        return found

    def seed_of(self, job: Job) -> int:
        return (self.seed + job.seed) % 2**63

    def origin(self, name: str) -> str:
        """Where the value of a dotted name came from."""
        return self._origins.get(name, "default")

    def sampled_as(self, wanted: Mapping[str, Any], origin: str) -> Settings:
        """These, with a pipeline's own way to be sampled where nobody set anything else.

        Args:
            wanted: see ``DiffusionParameters.or_as_wanted``. origin: what to call the pipeline where values are explained.

        Raises:
            ValueError: what was set does not go with it.
        """
        before = self.stages.render.diffusion
        sampler = before.or_as_wanted(wanted)
        return self._with_sampler(sampler, dict.fromkeys(sampler.model_fields_set - before.model_fields_set, origin))

    def computed_in(self, precision: Precision) -> Settings:
        """These, with the precision that the devices of the diffusion renderer compute in."""
        sampler = self.stages.render.diffusion.model_copy(update={"precision": precision})
        return self._with_sampler(sampler, {"precision": "the devices"})

    def _with_sampler(self, sampler: DiffusionParameters, origins: Mapping[str, str]) -> Settings:
        render = self.stages.render.model_copy(update={"diffusion": sampler})
        found = self.model_copy(update={"stages": self.stages.model_copy(update={"render": render})})
        found._origins = {**self._origins, **{f"stages.render.diffusion.{name}": origin for name, origin in origins.items()}}
        return found

    def recorded(self) -> dict[str, Any]:
        """What a run's record holds: every value but credentials; paths as they are from every folder."""
        values = self.model_dump(mode="json", exclude=set(_HIDDEN))
        for name in _PATHS:
            *sections, last = name.split(".")
            branch = values
            for section in sections:
                branch = branch[section]
            if branch[last] and not branch[last].startswith("~"):
                branch[last] = whole_address(branch[last])
        return values

    def describe(self) -> list[Setting]:
        """Every setting with its value and origin, in the order of declaration."""
        settings = []
        for leaf in leaves(type(self)):
            value: Any = self
            for part in leaf.name.split("."):
                value = getattr(value, part)
            hidden = leaf.name in _HIDDEN and value
            text = "(set, not shown)" if hidden else told_without_credentials(shown(value))
            settings.append(Setting(leaf.name, text, self.origin(leaf.name), leaf.description))
        return settings


@dataclass(frozen=True)
class Leaf:
    """One thing that can be set: its dotted name and what the model says about it."""

    name: str
    annotation: Any
    default: Any
    """As declared; ``default_factory`` is called."""
    description: str
    bounds: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper().replace(".", "__")


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[Leaf]:
    """Every leaf of a tree of models, in the order of declaration."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from leaves(annotation, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        bounds = ", ".join(
            f"{sign} {getattr(constraint, key)}"
            for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"), ("multiple_of", "multiple of"))
            for constraint in field.metadata
            if hasattr(constraint, key)
        )
        yield Leaf(prefix + name, annotation, None if default is PydanticUndefined else default, field.description or "", bounds)


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: str | Path | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from flags, environment and file, in that order of precedence.

    Args:
        flags: by (dotted) name or nested; None means not given. ``{"seed": 3, "stages.encode.crf": 18}``. What
            ``parse_assignments`` found malformed among them is told with the rest.
        environment: usually ``os.environ``. Only names that start with ``HEADSWAP_`` are looked at; ``__`` stands for a
            dot: ``HEADSWAP_STAGES__ENCODE__CRF=18``. An empty value counts as not given.
        file: YAML; where None, the file that ``HEADSWAP_CONFIG`` names.
        defaults: of a command that has some of its own, by (dotted) name: where none of these says anything.

    Raises:
        UsageError: with every problem, each naming the flag, variable or key of the file it came from.
    """
    environment = environment or {}
    known = {leaf.name: leaf for leaf in leaves(Settings)}
    problems: list[str] = []
    file = file or environment.get(FILE_VARIABLE) or None
    # (name, value, origin), the weakest first.
    given: list[tuple[str, Any, str]] = [(name, value, "the command's default") for name, value in (defaults or {}).items()]
    if file is not None:
        given += [(name, value, f"{file}: {name}") for name, value in _from_file(Path(file), known, problems)]
    given += _from_environment(environment, known, problems)
    given += [(name, value, _flag(name)) for name, value in _flatten(flags or {}, known) if value is not None]
    values: dict[str, tuple[Any, str]] = {}
    for name, value, origin in given:
        if isinstance(value, Malformed):
            problems.append(value.problem)
        elif name in known:
            values[name] = (_coerced(known[name], value), origin)
        elif name in _sections(known):
            problems.append(f"{origin}: {name} is a group of settings, not one; give {name}.<name>.")
        else:
            problems.append(f"{origin}: there is no setting {name!r}; {_hint(name, known)}")
    tree: dict[str, Any] = {}
    for name, (value, _) in values.items():
        *path, last = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        problems += _complaints(error, values, known)
        settings = Settings()
    if problems:
        raise UsageError(problems, remedy="docs/configuration.md lists every setting.")
    settings._origins.update({name: origin for name, (_, origin) in values.items()})
    return settings


@dataclass(frozen=True)
class Malformed:
    """In place of a value: what was wrong with an assignment, for ``load_settings`` to tell with everything else."""

    problem: str


def parse_assignments(texts: Sequence[str], option: str = "--set") -> dict[str, str | Malformed]:
    """``["stages.encode.crf=18"]`` to flags for ``load_settings``, which refuses those that are no assignments."""
    found: dict[str, str | Malformed] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals:
            found[name.strip()] = value.strip()
        else:
            # Under a name that no setting has, so that neither hides the other.
            written = f"{option} {text}"
            found[written] = Malformed(f"{written}: must be NAME=VALUE, such as stages.encode.crf=18.")
    return found


def shown(value: object) -> str:
    """A value as one would write it in the YAML file."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def choices(annotation: Any) -> tuple[str, ...]:
    """The permitted values of a ``Literal``, optional or not; empty for any other type."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return tuple(choice for part in typing.get_args(annotation) for choice in choices(part))
    return ()


def type_name(annotation: Any) -> str:
    """A word for documentation: ``text``, ``whole number``, ``number``, ``yes or no``, or the choices."""
    if found := choices(annotation):
        return ", ".join(f"`{choice}`" for choice in found)
    if typing.get_origin(annotation) is dict:
        return "mapping"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    inner = [part for part in typing.get_args(annotation) if part is not type(None)] or [annotation]
    return words.get(inner[0], "text")


# ---- layers


def _from_file(file: Path, known: Mapping[str, Leaf], problems: list[str]) -> list[tuple[str, Any]]:
    try:
        content = read_yaml(expanded_path(file).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        problems.append(f"The configuration {file} does not exist.")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"The configuration {file} cannot be read: {error}.")
    except yaml.YAMLError as error:
        problems.append(f"The configuration {file} is not well-formed YAML: {' '.join(str(error).split())}.")
    else:
        if content is None:
            return []
        if isinstance(content, dict):
            return [(name, value) for name, value in _flatten(content, known) if value is not None]
        problems.append(f"The configuration {file} must hold names and values, but holds {type(content).__name__}.")
    return []


def _from_environment(
    environment: Mapping[str, str], known: Mapping[str, Leaf], problems: list[str]
) -> list[tuple[str, Any, str]]:
    by_variable = {leaf.variable: name for name, leaf in known.items()}
    found = []
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE or not environment[variable]:
            continue
        if variable in by_variable:
            found.append((by_variable[variable], environment[variable], variable))
        else:
            problems.append(f"{variable}: no setting goes by this variable; {suggestion(variable, by_variable)[:300]}")
    return found


def _flatten(values: Mapping[Any, Any], known: Mapping[str, Leaf], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in known and any(leaf.startswith(f"{name}.") for leaf in known):
            yield from _flatten(value, known, f"{name}.")
        else:
            yield name, value


def _flag(name: str) -> str:
    return f"--{name}" if name in _OPTIONS else f"--set {name}"


def _sections(known: Mapping[str, Leaf]) -> set[str]:
    return {name.rsplit(".", depth)[0] for name in known for depth in range(1, name.count(".") + 1)}


def _hint(name: str, known: Mapping[str, Leaf]) -> str:
    """The nearest name among the siblings first: people misspell the last part more often than the path."""
    section, _, last = name.rpartition(".")
    siblings = {leaf.removeprefix(f"{section}.").split(".")[0] for leaf in known if not section or leaf.startswith(f"{section}.")}
    if section and siblings:
        return f"in {section}, {suggestion(last, siblings)}"
    return suggestion(name, siblings if not section else known)[:300]


def _coerced(leaf: Leaf, value: Any) -> Any:
    """Text where text is wanted (YAML reads ``subject: 0`` as a number), mappings from the JSON of a variable or flag."""
    if typing.get_origin(leaf.annotation) is dict and isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value  # refused with its origin by the model
    accepts_text = leaf.annotation is str or str in typing.get_args(leaf.annotation)
    if accepts_text and (isinstance(value, Path) or (isinstance(value, (int, float)) and not isinstance(value, bool))):
        return str(value)
    return value


def _complaints(error: ValidationError, values: Mapping[str, tuple[Any, str]], known: Mapping[str, Leaf]) -> list[str]:
    problems = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        while name not in known and "." in name:
            name = name.rpartition(".")[0]
        value, origin = values.get(name, (problem["input"], name))
        text = "its value" if name in _HIDDEN else repr(value)
        permitted = choices(known[name].annotation) if name in known else ()
        if name not in known:
            problems.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}.")
        elif problem["type"] == "string_pattern_mismatch":
            problems.append(
                f"{origin}: {text} is not permitted: see {name} in docs/configuration.md ({known[name].description})."
            )
        elif permitted:
            problems.append(f"{origin}: {text} is not permitted; {suggestion(str(value), permitted)}")
        else:
            problems.append(f"{origin}: {text}: {problem['msg'][0].lower()}{problem['msg'][1:]}.")
    return problems
