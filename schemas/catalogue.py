"""The catalogue: which heads go onto which videos, one job a row, as CSV, JSON Lines or Parquet.

A catalogue is read whole and every problem in it is reported at once. It is untrusted input: its size, its number of
rows and the length of its cells are bounded, ids and output names cannot leave the output folder, and nothing in it is
ever executed. Media that are missing or damaged are *not* problems of the catalogue: they fail their own job when it
runs, and the other jobs are done. Only a subject is looked for, because a misspelt word would else be a missing picture.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urljoin

import fsspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from schemas.catalogue_files import MAXIMUM_BYTES, MAXIMUM_ROWS, Columns, catalogue_rows, is_url, read_bounded
from schemas.edits import Edits, is_inline, load_edits, parse_edits, read_edits
from schemas.names import nearest, suggestion
from schemas.places import expanded_path
from schemas.problems import UsageError

MAXIMUM_CELL = 16_384
"""Most characters in one cell."""

MAXIMUM_PROBLEMS = 200
"""Problems listed one by one; a line saying how many more there are follows."""

RIGHTS_HINT = (
    'say on what ground the source\'s likeness is used, for example "own likeness", "synthetic" or the reference of a release'
)
_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SAFE_PART = re.compile(r"[^\x00-\x1f\x7f\\:*?\"<>|]+")
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")


class Job(BaseModel):
    """One row of a catalogue.

    Paths and URLs are complete: relative ones have been resolved against the catalogue's own folder or URL.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="names the job in reports and its files: letters, digits, '.', '_' and '-'")
    source: str = Field(min_length=1, max_length=4096, description="picture or video of the head that is put on: path or URL")
    target: str = Field(min_length=1, max_length=4096, description="video (or picture) whose head is replaced: path or URL")
    rights: str = Field(max_length=2000, description=f"{RIGHTS_HINT}; recorded in the result's provenance")
    subject: str | None = Field(
        None,
        max_length=4096,
        description="whose head in the target: 'largest', a number (0 is the largest) or a picture of the face; "
        "default: the configuration's",
    )
    edits: str | None = Field(
        None, max_length=MAXIMUM_CELL, description="expression and pose edits: a JSON object, or a YAML or JSON file"
    )
    output: str = Field(
        "",
        max_length=1024,
        description="file name below the output folder, whose suffix is the container; "
        "default: the id, in the configuration's container",
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of the random numbers; the configuration's seed is added")
    renderer: Literal["warp", "diffusion"] | None = Field(None, description="default: the configuration's")

    @property
    def container(self) -> str | None:
        """``mp4``, ``mkv`` or ``mov`` as the suffix of ``output`` says; None where none is given: the configuration's."""
        return PurePosixPath(self.output).suffix.lower().removeprefix(".") or None

    @field_validator("id")
    @classmethod
    def _id_is_safe(cls, value: str) -> str:
        if not _SAFE_ID.fullmatch(value) or value.endswith("."):
            raise ValueError(
                f"{value!r} cannot name files: use letters, digits, '.', '_' and '-', at most 128, for example {safe_id(value)!r}"
            )
        return value

    @field_validator("rights")
    @classmethod
    def _rights_are_given(cls, value: str) -> str:
        if not value.strip():
            raise ValueError(f"is empty: {RIGHTS_HINT}")
        return " ".join(value.split())

    @field_validator("source", "target", "subject", "rights")
    @classmethod
    def _no_control_characters(cls, value: str | None) -> str | None:
        # They would reach terminals and file systems: an escape sequence in a path can rewrite what a person reads.
        if value is not None and (found := CONTROL_CHARACTER.search(value)):
            raise ValueError(f"{value!r} holds the control character {found.group()!r}")
        return value

    @field_validator("output")
    @classmethod
    def _output_stays_inside(cls, value: str) -> str:
        if not value:
            return value
        parts = value.split("/")
        if value.startswith("/") or any(part in ("", ".", "..") or not _SAFE_PART.fullmatch(part) for part in parts):
            raise ValueError(f"{value!r} must be a plain file name below the output folder, such as 'scene3/anna.mp4'")
        if PurePosixPath(value).suffix.lower() not in _VIDEO_SUFFIXES:
            raise ValueError(f"{value!r} must end in one of {', '.join(_VIDEO_SUFFIXES)}")
        return value

    @field_validator("edits")
    @classmethod
    def _inline_edits_can_be_made(cls, value: str | None) -> str | None:
        if value is not None and is_inline(value):
            try:
                read_edits(parse_edits(value, "the edits"))
            except UsageError as error:
                raise ValueError("; ".join(error.problems)) from error
        return value


COLUMNS = tuple(Job.model_fields)
REQUIRED = ("id", "source", "target", "rights")


@dataclass(frozen=True)
class Catalogue:
    """The jobs of a catalogue in the order of its rows.

    Attributes:
        url: where it was read from.
        jobs: at least one, with different ids and outputs.
        digest: SHA-256 of the jobs (not of the file: a CSV and a Parquet of the same rows have the same digest).
    """

    url: str
    jobs: tuple[Job, ...]
    digest: str

    @classmethod
    def of(cls, jobs: Sequence[Job], url: str = "") -> Catalogue:
        """A catalogue of jobs made by a program; refuses none and duplicates with ``UsageError``."""
        problems = [] if jobs else ["There is no job in the catalogue."]
        problems += _duplicates([_Names(f"job {number}", job.id, job.output) for number, job in enumerate(jobs, 1)])
        if problems:
            raise UsageError(problems)
        text = json.dumps([job.model_dump() for job in jobs], sort_keys=True, separators=(",", ":"))
        return cls(url, tuple(jobs), hashlib.sha256(text.encode()).hexdigest())

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def job(self, identifier: str) -> Job:
        """The job of that id; ``UsageError`` with the nearest one where there is none."""
        for job in self.jobs:
            if job.id == identifier:
                return job
        near = nearest(identifier, [job.id for job in self.jobs])
        raise UsageError([f"There is no job {identifier!r} in the catalogue{f': did you mean {near!r}?' if near else '.'}"])


def safe_id(text: str) -> str:
    """A permitted id that resembles ``text``."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip()).strip("-.")[:128].rstrip("-.")
    return cleaned or "job"


def read_catalogue(
    url: str | Path,
    *,
    storage_options: Mapping[str, Any] | None = None,
    maximum_bytes: int = MAXIMUM_BYTES,
    maximum_rows: int = MAXIMUM_ROWS,
) -> Catalogue:
    """Read and check a catalogue.

    Args:
        url: path or fsspec URL of a ``.csv``, ``.jsonl`` (or ``.ndjson``) or ``.parquet`` file.
        storage_options: for the file system of the URL.

    Raises:
        UsageError: with every problem found, each naming row and column. Rows are counted from 1 without the header
            of a CSV, whose messages name the line of the file as well.
    """
    location = str(url)
    data = read_bounded(location, dict(storage_options or {}), maximum_bytes, "catalogue")
    problems: list[str] = []
    rows = catalogue_rows(location, data, Columns(COLUMNS, REQUIRED, RIGHTS_HINT), problems, maximum_rows)
    read = [_job(where, row, location, problems) for where, row in rows]
    if not rows and not problems:
        problems.append(f"The catalogue {location} has no rows: give one row a job, with the columns {', '.join(REQUIRED)}.")
    problems += _duplicates([names for _, names in read])
    if problems:
        raise UsageError(
            shortened(problems),
            remedy=f"Nothing was run. Mend {location} and repeat the command; docs/catalogue.md describes the format.",
        )
    return Catalogue.of([job for job, _ in read if job is not None], location)


def edits_of(job: Job, *, storage_options: Mapping[str, Any] | None = None) -> Edits:
    """The edits of a job, checked.

    Raises:
        UsageError: with every problem and its place: in the file, or in the job's own cell.
    """
    named = job.edits is not None and not is_inline(job.edits)
    where = f"{job.edits} (edits of job {job.id})" if named else f"edits of job {job.id}"
    return read_edits(load_edits(job.edits, storage_options=storage_options), where)


def resolve(path: str, base: str) -> str:
    """Complete a path or URL against the folder of the file ``base``: absolute ones and URLs stay as they are."""
    if path.startswith("file://"):
        return path.removeprefix("file://")
    if is_url(path):
        return path
    if path.startswith("~"):
        return str(expanded_path(path))
    base = base.removeprefix("file://")
    if not is_url(base):
        folder = os.path.dirname(os.path.abspath(expanded_path(base)))
        return os.path.normpath(os.path.join(folder, path))
    if path.startswith("/"):
        return path
    if base.startswith(("http://", "https://")):
        return urljoin(base, path)
    head, chained, tail = base.partition("::")
    protocol, _, inside = head.partition("://")
    root, _, _ = inside.partition("/")
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(inside), path))
    outside = "/" in inside and not joined.startswith(f"{root}/")
    if joined.startswith("../") or (outside and not chained):
        raise ValueError(f"{path!r} leads out of {protocol}://{root}")
    return f"{protocol}://{joined}{chained}{tail}"


# ---- one row


@dataclass(frozen=True)
class _Names:
    """What no other row may have too. Of a row with problems as far as it can be told.

    Attributes:
        where: the row.
        id: as it is written, be it permitted or not; empty where it is missing.
        output: empty where the id decides; None where it cannot be told.
    """

    where: str
    id: str
    output: str | None


def _job(where: str, row: Mapping[str, Any], location: str, problems: list[str]) -> tuple[Job | None, _Names]:
    """A row as a job, None where it has problems, and its names, with which it stands in the way of others even then."""
    values = {name: _text_or_number(name, value) for name, value in row.items() if value is not None}
    values = {name: value for name, value in values.items() if value != "" or name in ("id", "rights")}
    found: list[str] = []
    for name in REQUIRED:
        if values.get(name, "") == "" or (isinstance(values[name], str) and not values[name].strip()):
            values.pop(name, None)
            found.append(f"{where}, column {name!r}: is missing" + (f": {RIGHTS_HINT}." if name == "rights" else "."))
    for name in ("source", "target", "subject", "edits"):
        value = values.get(name)
        if isinstance(value, str) and _is_path(name, value):
            try:
                check_protocol(value)
                values[name] = resolve(value, location)
                if name == "subject":
                    _require_picture(value, values[name])
            except ValueError as error:
                found.append(f"{where}, column {name!r}: {_ended(str(error))}")
                values.pop(name)
    wrong: set[str] = set()
    try:
        job = Job.model_validate(values)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else ""
            wrong.add(name)
            if problem["type"] == "missing" and any(f"column {name!r}" in text for text in found):
                continue
            found.append(f"{where}, column {name!r}: {_ended(_complaint(name, problem))}")
        job = None
    problems += found
    identifier, output = values.get("id"), values.get("output", "")
    unknown = "output" in wrong or (output == "" and "id" in wrong)
    names = _Names(where, identifier if isinstance(identifier, str) else "", None if unknown else output)
    return (None if found else job), names


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def _complaint(name: str, problem: Mapping[str, Any]) -> str:
    value = problem["input"]
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if name == "renderer":
        return f"{shown} is no renderer; " + suggestion(str(value), ("warp", "diffusion"))
    if name == "seed":
        return f"{shown} is not a whole number from 0 to {2**63 - 1}"
    return f"{shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _text_or_number(name: str, value: Any) -> Any:
    """Cells as the columns want them: numbers in text columns (an id of 7) as text, edits given as an object as JSON."""
    if name == "edits" and isinstance(value, dict):
        return json.dumps(_without_nulls(value), sort_keys=True, default=str)
    if name in ("id", "subject", "output", "rights") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if name == "seed":
        # 3.0 is what a data frame makes of an integer column with gaps.
        return value if not isinstance(value, bool) else str(value)
    return value.strip() if isinstance(value, str) and name != "edits" else value


def _without_nulls(value: Any) -> Any:
    """Parquet fills the fields that a struct does not have with nulls, at every depth."""
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _is_path(name: str, value: str) -> bool:
    if name == "edits":
        return not is_inline(value)
    if name == "subject":
        return value != "largest" and not value.isdecimal()
    return True


def _require_picture(subject: str, path: str) -> None:
    """ValueError where a subject that is neither the word nor a number is no file either; other machines are not asked.

    Args:
        subject: as it is written. path: complete.
    """
    if is_url(path) or os.path.isfile(path):
        return
    near = nearest(subject, ("largest",))
    raise ValueError(
        f"{subject!r} is neither 'largest', a number (0 is the largest head, 1 the next) nor a picture that is there"
        + (f"; did you mean {near!r}?" if near else "" if path == subject else f" ({path!r} does not exist)")
    )


def check_protocol(path: str) -> None:
    """ValueError where a URL has a protocol that no file system is known for."""
    for part in path.split("::"):
        protocol, separator, _ = part.partition("://")
        if separator and protocol not in fsspec.available_protocols():
            raise ValueError(
                f"{protocol}:// is no known protocol; "
                + suggestion(protocol, ("file", "s3", "gs", "az", "http", "https", "memory"))
            )


def _duplicates(rows: Sequence[_Names]) -> list[str]:
    problems: list[str] = []
    ids: dict[str, str] = {}
    outputs: dict[str, _Names] = {}
    for row in rows:
        # Compared without case: both files would be one on the file systems of macOS and Windows.
        first = ids.setdefault(row.id.casefold(), row.where) if row.id else row.where
        if first != row.where:
            problems.append(f"{row.where}, column 'id': {row.id!r} is taken by {first}; give every job its own id.")
            continue
        if row.output is None:
            continue
        # Without suffixes: a result whose sound does not fit gets another one, which shows only when its target is read.
        name = str(PurePosixPath(row.output).with_suffix("")) if row.output else row.id
        other = outputs.setdefault(name.casefold(), row)
        if other is not row:
            mine, theirs = (one.output or f"{one.id}.mp4" for one in (row, other))
            owner = f"job {other.id!r} ({other.where})" if other.id else other.where
            if mine.casefold() == theirs.casefold():
                problem = f"{mine!r} is written by {owner} too; give every job its own file."
            else:
                problem = (
                    f"{mine!r} and {theirs!r} of {owner} differ in their suffixes alone and may become one "
                    "file: where a sound does not fit, the suffix changes; give every job its own name."
                )
            problems.append(f"{row.where}, column 'output': {problem}")
    return problems


def shortened(problems: list[str]) -> list[str]:
    """The first ``MAXIMUM_PROBLEMS`` problems and how many more there are."""
    if len(problems) <= MAXIMUM_PROBLEMS:
        return problems
    return [*problems[:MAXIMUM_PROBLEMS], f"... and {len(problems) - MAXIMUM_PROBLEMS} more problems like these."]
