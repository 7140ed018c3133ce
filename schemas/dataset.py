"""Data sets for training: which clips, on what ground they may be used, and which of their frames are good enough."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from schemas.catalogue import (
    CONTROL_CHARACTER,
    Job,
    check_protocol,
    read_catalogue,
    resolve,
    safe_id,
    shortened,
)
from schemas.catalogue_files import MAXIMUM_BYTES, Columns, catalogue_rows, read_bounded
from schemas.names import named, suggestion
from schemas.problems import UsageError

LONGEST_ID = 128


class DatasetClip(BaseModel):
    """One row of a catalogue of training clips. Paths are complete: relative ones have been resolved against the catalogue's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(
        min_length=1, max_length=LONGEST_ID, description="names the clip in the data set: letters, digits, '.', '_' and '-'"
    )
    clip: str = Field(min_length=1, max_length=4096, description="video: path or URL")
    rights: str = Field(
        min_length=1, max_length=2000, description="on what ground the clip may train a network; goes into every shard"
    )
    subject: str | None = Field(None, max_length=4096, description="who in the clip: 'largest', a number, or a picture")
    person: str | None = Field(
        None, max_length=256, description="who it is, where several clips show the same: they go into the same split"
    )
    rights_said_of: Literal["clip", "source"] = Field(
        "clip", description="'source': the row of a catalogue of swaps gave the rights of its source; this is its target"
    )

    @field_validator("id")
    @classmethod
    def _id_is_safe(cls, value: str) -> str:
        if safe_id(value) != value:
            raise ValueError(f"{value!r} cannot name files, for example {safe_id(value)!r} can")
        return value

    @field_validator("clip", "subject", "rights", "person")
    @classmethod
    def _no_control_characters(cls, value: str | None) -> str | None:
        # They would reach terminals and file systems: an escape sequence in a path can rewrite what a person reads.
        if value is not None and (found := CONTROL_CHARACTER.search(value)):
            raise ValueError(f"{value!r} holds the control character {found.group()!r}")
        return value

    @field_validator("rights")
    @classmethod
    def _rights_are_given(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty: say on what ground the clip may train a network")
        return " ".join(value.split())

    @property
    def identity(self) -> str:
        """Who the clip shows, as far as is known: decides its split."""
        return self.person or self.id


class DatasetParameters(BaseModel):
    """What goes into a data set. Every value is recorded in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(
        512, ge=64, le=1024, multiple_of=32, description="side of the crops; those of the pipeline are shrunk to it"
    )
    pictures: Literal["jpg", "png"] = Field("jpg", description="png keeps every bit and takes about three times the room")
    quality: int = Field(95, ge=50, le=100, description="of JPEG; colours keep their full resolution")
    shard_frames: int = Field(512, ge=1, le=100_000, description="a shard is closed when it holds at least this many frames")
    longest_segment: int = Field(240, ge=1, description="longer runs of frames are cut, so that shards are about equally long")
    shortest_segment: int = Field(16, ge=1, description="shorter runs of usable frames are left out")
    reference_interval: int = Field(8, ge=1, description="of every so many frames one can serve as the reference picture")
    validation: float = Field(0.05, ge=0, lt=1, description="share of people kept for validation, by a hash of who they are")
    beside_cuts: int = Field(1, ge=0, description="frames left out on both sides of a cut: they may show both shots")
    smallest_crop: float = Field(0.4, ge=0, description="side of the crop in the video, in sides of a prepared crop")
    largest_cover: float = Field(0.02, ge=0, le=1, description="share of the crop that a hand or an object before the head takes")
    largest_outside: float = Field(0.45, ge=0, le=1, description="share of the crop that lies outside the picture")
    largest_below: float = Field(0.08, ge=0, le=1, description="share of the crop below the picture, where the body is cut")
    largest_difference: float = Field(
        12.0,
        gt=0,
        description="difference of a frame's background from that of its shot (0..255): more in fades, flashes, titles",
    )
    largest_residual: float = Field(0.12, gt=0, description="distance of landmarks to the face model, in distances of the eyes")


DECIDED_BY = {
    "cut": "beside_cuts",
    "small": "smallest_crop",
    "outside": "largest_outside",
    "cut_off": "largest_below",
    "covered": "largest_cover",
    "other_light": "largest_difference",
    "poor_fit": "largest_residual",
    "short": "shortest_segment",
}
"""By reason for leaving a frame out (``stages.training.selection.REASONS``) the parameter that decides it, where one does."""


def split_of(identity: str, validation: float) -> str:
    """``train`` or ``validation``, by a hash of who is shown: the same whatever else is in the data set."""
    return "validation" if _drawn(identity) < validation else "train"


def _drawn(identity: str) -> float:
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big") / 2**64


@dataclass(frozen=True)
class ClipUse:
    """A clip's id, who it shows, and whether any of its frames are in the data set."""

    id: str
    person: str
    used: bool


def for_both_splits(clips: Sequence[ClipUse]) -> str:
    """What gives both splits frames, as the end of a sentence: the share of people to keep for validation, or who is missing."""
    people, usable = {clip.person for clip in clips}, {clip.person for clip in clips if clip.used}
    drawn = sorted(map(_drawn, usable))
    shares = (math.floor(drawn[0] * 10**digits + 1) / 10**digits for digits in range(2, 17)) if len(drawn) > 1 else ()
    share = next((share for share in shares if share <= drawn[-1]), None)
    if share is not None:
        return f"prepare it with --parameter validation={share}"
    if people == usable:
        return f"it takes two people at least, and there is {len(people)}"
    without = named([clip.id for clip in clips if clip.person not in usable])
    return f"it takes two people at least, and of {len(people)} only {len(usable)} has usable frames (none in {without})"


def dataset_parameters(assignments: Sequence[str], **given: Any) -> DatasetParameters:
    """Parameters from ``NAME=VALUE`` texts and from values that are not None.

    Raises:
        UsageError: with every problem found.
    """
    problems = []
    values = {name: value for name, value in given.items() if value is not None}
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or name not in DatasetParameters.model_fields:
            problems.append(f"{text!r} sets nothing of a data set; {suggestion(name, tuple(DatasetParameters.model_fields))}")
        else:
            values[name] = value
    try:
        chosen = DatasetParameters.model_validate(values)
    except ValidationError as error:
        problems += [f"{problem['loc'][0]}: {problem['msg']}." for problem in error.errors()]
    if not problems:
        return chosen
    raise UsageError(problems, "docs/dataset.md lists all values.")


COLUMNS = tuple(name for name in DatasetClip.model_fields if name != "rights_said_of")
REQUIRED = ("id", "clip", "rights")
RIGHTS_HINT = "say on what ground the clip may train a network"

_OF_SWAPS = Columns(("clip", "source", "target"), (), "")
"""What tells a catalogue of swaps from one of clips."""


def read_clips(url: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> tuple[DatasetClip, ...]:
    """Read the clips of a catalogue: CSV, JSON Lines or Parquet with the columns ``id, clip, rights`` and optionally ``subject``
    and ``person``, or a catalogue of swaps, whose sources and targets are then the clips.

    Raises:
        UsageError: with every problem found.
    """
    location = str(url)
    data = read_bounded(location, dict(storage_options or {}), MAXIMUM_BYTES, "catalogue")
    peeked = [row for _, row in catalogue_rows(location, data, _OF_SWAPS, [])]
    if any(peeked) and not any("clip" in row for row in peeked):
        return _clips_of_swaps(read_catalogue(location, storage_options=storage_options).jobs)
    problems: list[str] = []
    rows = catalogue_rows(location, data, Columns(COLUMNS, REQUIRED, RIGHTS_HINT), problems)
    if not rows and not problems:
        problems.append(f"The catalogue {location} has no rows: give one row a clip, with the columns {', '.join(REQUIRED)}.")
    ids: dict[str, str] = {}
    shown: dict[tuple[str, str | None], str] = {}
    clips = []
    for where, row in rows:
        clip, values = _clip(where, row, location, problems)
        if clip is not None:
            clips.append(clip)
        # Rows with other problems stand in each other's way too: mending these must not bring out further ones.
        name, url = values.get("id", ""), values.get("clip", "")
        first = ids.setdefault(name.casefold(), where) if name else where
        if first != where:
            problems.append(f"{where}, column 'id': {name!r} is taken by {first}; give every clip its own id.")
            continue
        if not url or CONTROL_CHARACTER.search(url):
            continue
        # Twice the same person under two names would be trained on and kept for validation.
        first = shown.setdefault((url, _meant(values.get("subject"))), where)
        if first != where:
            problems.append(f"{where}, column 'clip': {url} is named by {first} already; name every clip and subject once.")
    if problems:
        raise UsageError(
            shortened(problems), f"Nothing was run. Mend {location} and repeat the command; docs/dataset.md describes the format."
        )
    return tuple(clips)


def _clip(where: str, row: Mapping[str, Any], location: str, problems: list[str]) -> tuple[DatasetClip | None, dict[str, str]]:
    """A row as a clip, None where it has problems, and its cells with complete paths."""
    values = {name: str(row[name]).strip() for name in COLUMNS if row.get(name) is not None}
    values = {name: value for name, value in values.items() if value}
    missing = [name for name in REQUIRED if name not in values]
    found = [f"{where}, column {name!r}: is missing{f': {RIGHTS_HINT}' if name == 'rights' else ''}." for name in missing]
    subject = values.get("subject", "largest")
    of_files = ("clip",) if subject == "largest" or subject.isdigit() else ("clip", "subject")
    for name in (name for name in of_files if name in values):
        try:
            check_protocol(values[name])
            values[name] = resolve(values[name], location)
        except ValueError as error:
            found.append(f"{where}, column {name!r}: {str(error).rstrip('.')}.")
    try:
        clip = DatasetClip.model_validate(values)
    except ValidationError as error:
        found += [
            f"{where}, column {problem['loc'][0]!r}: {problem['msg'].removeprefix('Value error, ')}."
            for problem in error.errors()
            if problem["type"] != "missing"
        ]
    problems += found
    return (None if found else clip), values


def _meant(subject: str | None) -> str:
    """One name for the largest person of a clip, whom nobody has to name."""
    return "largest" if subject in (None, "0") else str(subject)


def _clips_of_swaps(jobs: tuple[Job, ...]) -> tuple[DatasetClip, ...]:
    """Sources and targets of swaps, each file and subject once, under the rights of the first row that names it."""
    found: dict[tuple[str, str | None], DatasetClip] = {}
    for job in jobs:
        for role, url, subject in (("source", job.source, None), ("target", job.target, job.subject)):
            name = f"{job.id}-{role}"
            if len(name) > LONGEST_ID:  # shortened ids must not become the same
                name = f"{job.id[:100]}-{hashlib.blake2b(job.id.encode(), digest_size=8).hexdigest()}-{role}"
            found.setdefault(
                (url, _meant(subject)),
                DatasetClip(
                    id=name,
                    clip=url,
                    rights=job.rights,
                    subject=subject,
                    person=None,
                    rights_said_of="clip" if role == "source" else "source",
                ),
            )
    return tuple(found.values())
