"""Registered models: which there are, whose they are, where their files lie, and whether these are whole.

All files lie in one folder, ``HEADSWAP_MODELS`` (default ``~/.cache/headswap/models``). Nothing downloads by itself:
``pull`` does, when asked, after the licence has been accepted; ``add`` takes a file that is already there. Further models
are declared in ``models.yaml`` in that folder::

    studio_faces:
      file: studio_faces.onnx
      kind: onnx
      licence: in-house
      commercial: true
      serves: identity for the measures
      sha256: 1f0e...        # optional, as are url and origin

A pipeline of the diffusion renderer is a folder, with its record in it (``stages.networks.registered``).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from schemas.names import suggestion
from schemas.places import expanded_path
from schemas.problems import ModelError
from stages.durable import flush
from stages.networks.additions import clear_away, replace_folder, workplace
from stages.networks.downloading import download, extract
from stages.networks.files import Tell, announce, sha256_of, silent
from stages.networks.model_entries import KNOWN, ModelEntry, declared_entries
from stages.networks.registered import SHIPPED, Registration, check_name, pipeline_files, registrations
from stages.networks.weights import check_weights

DEFAULT_FOLDER = "~/.cache/headswap/models"
FOLDER_VARIABLE = "HEADSWAP_MODELS"
DECLARATIONS = "models.yaml"
_STATE_FILE = ".verified.json"

State = Literal["present", "missing", "damaged"]


@dataclass(frozen=True)
class ModelStatus:
    """What a person wants to know of a model, and how its file is."""

    name: str
    state: State
    licence: str
    commercial: bool
    serves: str
    origin: str
    path: str
    bytes: int = 0
    detail: str = ""
    """What is wrong with a damaged file."""


class ModelRegistry:
    """The folder of models.

    A file's digest is computed once and remembered by size and time of change beside the files, so that asking for a path
    costs no reading. In a folder that cannot be written, it is remembered for the life of the process only.

    Args:
        folder: default: the environment variable ``HEADSWAP_MODELS``, else ``~/.cache/headswap/models``. It need not exist.
        shipped: folder of pipelines that come with the program.

    Raises:
        UsageError: ``models.yaml`` or a pipeline's record is wrong; with all problems.
    """

    def __init__(self, folder: str | Path | None = None, shipped: Path = SHIPPED) -> None:
        self.folder = expanded_path(folder or os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)
        self.entries: dict[str, ModelEntry] = {
            entry.name: entry for entry in (*KNOWN, *declared_entries(self.folder / DECLARATIONS))
        }
        self._verified = _read_state(self.folder / _STATE_FILE)
        self.shipped = shipped
        self._pipelines: dict[str, tuple[Path, Registration]] = {}
        self._find_pipelines()

    def __reduce__(self) -> tuple[type[ModelRegistry], tuple[str, Path]]:
        return ModelRegistry, (str(self.folder), self.shipped)

    @property
    def pipelines(self) -> dict[str, Registration]:
        """Registered pipelines of the diffusion renderer, by name."""
        return {name: registration for name, (_, registration) in sorted(self._pipelines.items())}

    def entry(self, name: str) -> ModelEntry:
        """``ModelError`` (``model_unknown``) with the nearest name where there is none."""
        if name not in self.entries:
            raise ModelError(
                "model_unknown",
                f"There is no model {name!r}: {suggestion(name, self.entries)}",
                f"Further models are declared in {self.folder / DECLARATIONS}; a pipeline of the diffusion renderer is a folder.",
            )
        return self.entries[name]

    def list(self, tell: Tell = silent) -> tuple[ModelStatus, ...]:
        """Every model with its state; never raises for a damaged file.

        Beforehand it clears away what killed additions left in the folder, where that can be written: a pipeline that one of them
        had moved aside is back.

        Args:
            tell: is given a line before a large file is read.
        """
        if clear_away(self.folder):
            self._find_pipelines()
        return tuple(self._status(entry, tell) for entry in self.entries.values())

    def path(self, name: str) -> Path | None:
        """The model's file, or None where it is not there.

        Raises:
            ModelError: ``model_unknown``, or ``model_damaged``: a damaged file is no missing one, because results would
                silently differ from those of a whole installation.
        """
        status = self._status(self.entry(name))
        if status.state == "damaged":
            raise ModelError("model_damaged", status.detail, _hint(self.entry(name)))
        return Path(status.path) if status.state == "present" else None

    def digest(self, name: str) -> str:
        """SHA-256 of the file, 64 hex digits (of a pipeline its own, 40); ``ModelError`` (``model_missing``) without one."""
        path = self.path(name)
        if path is None:
            raise _missing(self.entry(name))
        if name in self._pipelines:
            return self._pipelines[name][1].digest
        return self._digest_of(path, path.name)

    def require(self, name: str) -> Path:
        """The model's file; ``ModelError`` (``model_missing``), saying how to get it, where it is not there."""
        path = self.path(name)
        if path is None:
            raise _missing(self.entry(name))
        return path

    def add(self, name: str, file: str | Path, *, allow_unknown_digest: bool = False) -> Path:
        """Register a file: check it, copy it into the folder in one step, and remember its digest.

        Args:
            name: of a known or declared model.
            file: what is copied.
            allow_unknown_digest: take a file whose digest is not the one on record (another export of the same network).

        Raises:
            ModelError: unknown name; file missing, damaged, of the wrong kind or a pickle; ``model_digest`` where the file
                is not the one on record.
        """
        entry = self.entry(name)
        source = expanded_path(file)
        if os.path.isdir(source):
            raise ModelError(
                "model_wrong_kind", f"{source} is a folder; {name} is one {entry.kind} file.", "Give the file itself."
            )
        self._look_into(entry, source)
        with self._workplace(entry) as place:
            temporary = place / "weights"
            shutil.copyfile(source, temporary)
            return self._install(entry, temporary, str(source), allow_unknown_digest)

    def add_pipeline(self, name: str, make: Callable[[Path], Registration]) -> Path:
        """Register a pipeline: have it made in a temporary folder, then put it in place in one step.

        Args:
            name: small letters, digits, - and _; a pipeline of that name is replaced.
            make: writes the pipeline's files into the folder it is given (empty), and says what is on record of them.

        Raises:
            UsageError: the name is none, or another model's.
            ModelError: ``models_folder``, and what ``make`` raises: then all is as it was.
        """
        check_name(name, {entry.name: entry for entry in self.entries.values() if entry.kind != "pipeline"})
        entry = ModelEntry(name=name, file=name, kind="pipeline", licence="", commercial=False, serves="")
        with self._workplace(entry) as place:
            made = place / name
            made.mkdir()
            registration = make(made)
            registration.write(made)
            replace_folder(made, self.folder, name, place)
        self._find_pipelines()
        # The digests on record are those of these files, read a moment ago: a run need not read them again, nor we now.
        folder = self.folder / name
        self._remember({f"{folder}/{file}": _state_of(folder / file, digest) for file, digest in registration.files.items()})
        return folder

    def pull(
        self,
        name: str,
        *,
        accept_licence: bool = False,
        maximum_bytes: int = 4 * 2**30,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Path:
        """Download a model from where its authors publish it.

        Args:
            name: of a known or declared model.
            accept_licence: the caller has shown ``entry(name).licence`` and the person agreed.
            maximum_bytes: a longer answer is cut off and refused.
            progress: called with bytes received and bytes expected (None where the server does not say).

        Raises:
            ModelError: ``licence_not_accepted``; ``model_no_url``; ``model_download`` (retryable) where the network or the
                server fails; ``model_digest`` where what came is not the file on record.
        """
        entry = self.entry(name)
        if not accept_licence:
            terms = entry.licence if entry.commercial else f"{entry.licence}: commercial use is NOT allowed"
            raise ModelError(
                "licence_not_accepted",
                f"The licence of {name} ({entry.origin}) has not been accepted: {terms}.",
                f"If you agree, repeat it as `headswap models pull {name} --accept-licence`.",
            )
        if not entry.url:
            raise ModelError("model_no_url", f"There is no address from which {name} can be pulled.", entry.note or _hint(entry))
        with self._workplace(entry) as place:
            temporary = place / "weights"
            download(entry, temporary, maximum_bytes, progress)
            if entry.member:
                extract(entry, temporary, maximum_bytes)
            self._look_into(entry, temporary)
            return self._install(entry, temporary, entry.url, allow_unknown_digest=False)

    def verify(self, tell: Tell = silent) -> tuple[ModelStatus, ...]:
        """Like ``list``, but reads every file again instead of trusting what was remembered."""
        accepted = {file: state["accepted"] for file, state in self._verified.items() if state.get("accepted")}
        self._verified = {file: {"accepted": digest} for file, digest in accepted.items()}
        statuses = []
        for status in self.list(tell):
            if status.state == "present":
                try:
                    self._look_into(self.entries[status.name], Path(status.path))
                except ModelError as error:
                    status = replace(status, state="damaged", detail=error.message)
            statuses.append(status)
        return tuple(statuses)

    def refuse_non_commercial(self, names: Iterable[str]) -> None:
        """Raise ``ModelError`` (``licence_forbids``) if the licence of any of these forbids commercial use."""
        refused = [self.entry(name) for name in names if not self.entry(name).commercial]
        if refused:
            listed = "; ".join(f"{entry.name}: {entry.licence}" for entry in refused)
            raise ModelError(
                "licence_forbids",
                f"A commercial run may not use {listed}.",
                "Run without --commercial, or move these files out of the folder of models to do without them.",
            )

    # ---- files

    def _find_pipelines(self) -> None:
        self._pipelines = {
            registration.name: (place, registration)
            for folder in (self.shipped, self.folder)
            for place, registration in registrations(folder)
        }
        self.entries = {name: entry for name, entry in self.entries.items() if entry.kind != "pipeline"}
        for name, (_, registration) in self._pipelines.items():
            self.entries[name] = ModelEntry(
                name=name,
                file=name,
                kind="pipeline",
                licence=registration.licence,
                commercial=registration.commercial,
                serves=registration.serves,
                origin=registration.origin,
            )

    def _status(self, entry: ModelEntry, tell: Tell = silent) -> ModelStatus:
        if entry.kind == "pipeline":
            return self._pipeline_status(entry, tell)
        path = self.folder / entry.file
        status = ModelStatus(entry.name, "missing", entry.licence, entry.commercial, entry.serves, entry.origin, str(path))
        if not path.is_file():
            return status
        status = replace(status, state="present", bytes=path.stat().st_size)
        digest = self._digest_of(path, path.name, tell)
        expected = self._verified.get(entry.file, {}).get("accepted") or entry.sha256
        if expected and digest != expected:
            detail = f"The file {path} of {entry.name} is not the one on record: its SHA-256 is {digest}, not {expected}."
            return replace(status, state="damaged", detail=detail)
        if not expected:
            # Nobody vouches for its digest: look into it, which is cheap beside what the network costs.
            try:
                self._look_into(entry, path)
            except ModelError as error:
                return replace(status, state="damaged", detail=error.message)
        return status

    def _pipeline_status(self, entry: ModelEntry, tell: Tell) -> ModelStatus:
        folder, registration = self._pipelines[entry.name]
        status = ModelStatus(entry.name, "present", entry.licence, entry.commercial, entry.serves, entry.origin, str(folder))
        size = 0
        for relative, expected in registration.files.items():
            path = folder / relative
            if not path.is_file():
                return replace(status, state="damaged", detail=f"The file {path} of {entry.name} is gone.")
            size += path.stat().st_size
            if self._digest_of(path, f"{folder}/{relative}", tell) != expected:
                return replace(status, state="damaged", detail=f"The file {path} of {entry.name} is not the one on record.")
        return replace(status, bytes=size, detail=" ".join(registration.notes))

    def _look_into(self, entry: ModelEntry, path: Path) -> None:
        """``ModelError`` where a file is not what its entry says; a pipeline's files are what their digests say."""
        if entry.kind != "pipeline":
            check_weights(path, entry.kind, entry.arrays)
        elif {file.relative_to(path).as_posix() for file in pipeline_files(path)} != set(self._pipelines[entry.name][1].files):
            raise ModelError("model_damaged", f"{path} holds other files than were registered.", "Add it again.")

    def _digest_of(self, path: Path, name: str, tell: Tell = silent) -> str:
        """SHA-256 of a file, remembered under a name."""
        status = path.stat()
        state = self._verified.get(name, {})
        if (state.get("bytes"), state.get("changed")) == (status.st_size, status.st_mtime_ns):
            return str(state["sha256"])
        announce(f"Reading {path}:", status.st_size, tell)
        digest = sha256_of(path)
        self._remember({name: {**state, **_state_of(path, digest)}})
        return digest

    def _remember(self, states: dict[str, dict[str, Any]]) -> None:
        # What other processes wrote meanwhile stays written, but is not taken over: ``verify`` wants to read files itself.
        self._verified = {**self._verified, **states}
        if not os.access(self.folder, os.W_OK):
            return  # a shared, read-only folder: this process remembers, the next one reads again
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".verified-")
        with os.fdopen(handle, "w") as stream:
            json.dump({**_read_state(self.folder / _STATE_FILE), **self._verified}, stream, sort_keys=True)
        os.replace(temporary, self.folder / _STATE_FILE)

    @contextmanager
    def _workplace(self, entry: ModelEntry) -> Iterator[Path]:
        """A folder in the folder of models to make an entry in; gone afterwards whatever happens."""
        try:
            with ExitStack() as stack:
                try:
                    place = stack.enter_context(workplace(self.folder, entry.name))
                except OSError as error:
                    raise ModelError(
                        "models_folder",
                        f"The folder of models {self.folder} cannot be written: {error.strerror}.",
                        f"Set {FOLDER_VARIABLE} to another.",
                    ) from error
                yield place
        except OSError as error:
            raise ModelError(
                "models_folder",
                f"Writing {entry.file} to {self.folder} failed: {error.strerror or error}.",
                "Is the disk full?",
                retryable=True,
            ) from error

    def _install(self, entry: ModelEntry, temporary: Path, source: str, allow_unknown_digest: bool) -> Path:
        digest = sha256_of(temporary)
        known = digest == entry.sha256
        if entry.sha256 and not known and not allow_unknown_digest:
            raise ModelError(
                "model_digest",
                f"{source} is not the {entry.name} on record: its SHA-256 is {digest}, not {entry.sha256}.",
                f"If another version is meant: `headswap models add {entry.name} FILE --allow-unknown-digest`.",
            )
        path = self.folder / entry.file
        temporary.chmod(0o644)
        flush(temporary)
        os.replace(temporary, path)
        state = _state_of(path, digest)
        self._remember({entry.file: state if known else {**state, "accepted": digest}})
        return path


def _state_of(path: Path, digest: str) -> dict[str, Any]:
    """What is remembered of a file whose digest is known."""
    status = path.stat()
    return {"bytes": status.st_size, "changed": status.st_mtime_ns, "sha256": digest}


def _missing(entry: ModelEntry) -> ModelError:
    return ModelError("model_missing", f"The model {entry.name} ({entry.file}) is not registered.", _hint(entry))


def _hint(entry: ModelEntry) -> str:
    """How a model comes into the folder."""
    if entry.kind == "pipeline":
        return f"Add it again with `headswap models add {entry.name} FOLDER`."
    if entry.url:
        return (
            f"Get it with `headswap models pull {entry.name}`, or register a file with `headswap models add {entry.name} FILE`."
        )
    return entry.note or f"Register a file with `headswap models add {entry.name} FILE`."


def _read_state(path: Path) -> dict[str, dict[str, Any]]:
    """What was remembered; a file that cannot be read only means that digests are computed again."""
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): value for key, value in state.items() if isinstance(value, dict)} if isinstance(state, dict) else {}
