"""Pipelines in the folder of models: each a folder that ``HeadSwapPipeline.save_pretrained`` wrote, with a record beside it.

Nothing here loads a network: planning asks what is there, whose it is and what its digest is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from schemas.parameters import DiffusionParameters
from schemas.problems import ModelError, UsageError

RECORD = "registration.json"
"""In the pipeline's folder; no part of its digest."""

SAMPLING = "sampling.json"
"""Beside the networks, and part of the digest: how the pipeline wants to be sampled."""

SHIPPED = Path(__file__).resolve().parents[2] / "examples" / "models"
"""Pipelines that come with the program; those of the folder of models stand over them."""

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Layout = Literal["headswap", "aniportrait", "animateanyone"]

_PARTS = (".json", ".safetensors")


@dataclass(frozen=True)
class Registration:
    """What is on record of a pipeline.

    Attributes:
        name: under which jobs ask for it; also its folder's name.
        licence: in words.
        commercial: whether the licence allows commercial use.
        origin: where it comes from, in words.
        layout: what it was made from.
        profile: the preset whose sizes it has, or ``custom``.
        picture_size: pixels of a side that it is meant for.
        background: whether it was trained to draw on a background. Where it was not it draws a head on white.
        digest: of all its files, 40 hex digits.
        files: SHA-256 by path inside the folder.
        notes: what a person should know of it.
        sampling: how it wants to be sampled where nobody says otherwise (``read_sampling``).
    """

    name: str
    licence: str
    commercial: bool
    origin: str
    layout: Layout
    profile: str
    picture_size: int
    background: bool
    digest: str
    files: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def serves(self) -> str:
        """What it is for, in words."""
        how = "draws on the background" if self.background else "draws on white, matted in"
        return f"renderer diffusion: {self.profile} size, {self.picture_size} pixels, {how}"

    def write(self, folder: Path) -> None:
        """Leave the record in the pipeline's folder."""
        told = asdict(self)
        if not self.sampling:
            del told["sampling"]  # so that earlier versions can read it
        (folder / RECORD).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check_name(name: str, taken: Mapping[str, object]) -> None:
    """``UsageError`` for a name that no pipeline may have.

    Args:
        name: wanted.
        taken: names of models that are files.
    """
    if not NAME.fullmatch(name):
        raise UsageError([f"{name!r} is no name for a model: small letters, digits, - and _, at most 64 of them."])
    if name in taken:
        raise UsageError([f"{name} is the name of another model."], "Choose another name.")


def pipeline_files(folder: Path) -> list[Path]:
    """Every file that a saved pipeline consists of, sorted; not its record, model card or anything else beside it."""
    parts = (path for path in folder.rglob("*") if path.suffix in _PARTS and path.is_file())
    return sorted(path for path in parts if path.relative_to(folder).as_posix() != RECORD)


def pipeline_digest(folder: Path) -> str:
    """Digest of all that a saved pipeline consists of, wherever it lies: 40 hex digits of blake2b, for keys of artifacts."""
    whole = hashlib.blake2b(digest_size=20)
    for path in pipeline_files(folder):
        with path.open("rb") as file:
            part = hashlib.file_digest(file, "blake2b").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{part}\0".encode())
    return whole.hexdigest()


def write_sampling(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Leave with a saved pipeline how it wants to be sampled, by names of ``DiffusionParameters``."""
    text = json.dumps(DiffusionParameters.wanted_by_a_pipeline(wanted), indent=1, sort_keys=True)
    (folder / SAMPLING).write_text(text + "\n", encoding="utf-8")


def read_sampling(folder: Path) -> dict[str, Any]:
    """How a saved pipeline wants to be sampled; nothing where it does not say.

    Raises:
        ModelError: ``model_damaged``; with everything that is wrong.
    """
    file = folder / SAMPLING
    if not file.is_file():
        return {}
    try:
        return _wanted(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # the last one of JSON that is nested without end
        raise ModelError(
            "model_damaged",
            f"{file} does not say how the pipeline is sampled: {error}.",
            "Mend the file, or remove it: then the defaults of docs/configuration.md hold.",
        ) from error


def _wanted(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("it is no table of names and values")
    return DiffusionParameters.wanted_by_a_pipeline(content)


def registrations(folder: Path) -> Iterator[tuple[Path, Registration]]:
    """Pipelines of a folder of models with their own folders, by name.

    Raises:
        UsageError: records that cannot be read, all of them.
    """
    problems: list[str] = []
    for record in sorted(folder.glob(f"[a-z0-9]*/{RECORD}")):
        try:
            yield record.parent, _read(record)
        except (OSError, ValueError, TypeError, KeyError) as error:
            problems.append(f"The record {record} cannot be read: {error}.")
    if problems:
        raise UsageError(problems, "Remove the folder, and add the model again with `headswap models add NAME FOLDER`.")


def registration_of(folder: Path) -> Registration:
    """What is on record of the pipeline in a folder."""
    return _read(folder / RECORD)


def _read(record: Path) -> Registration:
    content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    wanted = _wanted(content.get("sampling", {}))  # the record is no part of the digest
    found = Registration(**{**content, "notes": tuple(content["notes"]), "sampling": wanted})
    if found.name != record.parent.name:
        raise ValueError(f"it names {found.name}, its folder {record.parent.name}")
    return found
