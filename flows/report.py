"""One static page for a run: side-by-side players, plots of the measures, flagged frames, failures first.

``build_report`` writes a folder that works from a file system without any server: ``index.html`` with everything inline and
``media/`` with what a browser can play. Results are linked where they are.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

import jinja2
import markupsafe
import numpy as np
import numpy.typing as npt

from flows.events import DONE
from flows.report_media import MediaFolder, Shown, local_path
from schemas.places import name_of, told_without_credentials, without_credentials
from storage.store import ArtifactStore

Status = Literal["done", "cached", "failed", "skipped"]

PAGE_BYTES = 2_500_000
"""About how much of the page plots may take; the more jobs, the coarser they are."""

LEAST_POINTS, MOST_POINTS = 60, 4_000


READERS = 8
"""Threads that read measures, which a remote store answers one by one; as many jobs' measures are in memory."""

Measures = Callable[[], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Plot:
    """How a column of the measures is shown. ``better`` is the end of the scale that is good."""

    column: str
    title: str
    unit: str
    better: Literal["low", "high"] = "low"


PLOTS = (
    Plot("pose_error", "Head pose", "degrees from the target"),
    Plot("expression_error", "Expression", "mean difference of weights from the wanted ones"),
    Plot("landmark_error", "Landmarks", "share of the eye distance"),
    Plot("position_error", "Head position", "share of the eye distance"),
    Plot("jitter", "Jitter", "beyond the target's own, share of the eye distance"),
    Plot("flicker", "Flicker", "beyond the target's own, levels of 255"),
    Plot("seam", "Seam", "colour step beyond the target's own, levels of 255"),
    Plot("softness", "Softness", "share of detail that source and target have, lost"),
    Plot("outside_difference", "Outside the region", "difference to the target, levels of 255"),
    Plot("identity", "Likeness to the source", "cosine", "high"),
)


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed: ``code`` is stable, ``message`` names the file, ``remedy`` says what to do."""

    code: str
    message: str
    remedy: str = ""
    stage: str = ""


@dataclass(frozen=True)
class JobReport:
    """What the page says about one job.

    Attributes:
        id, source, target, rights: as in the catalogue; paths or URLs.
        status: ``done``, ``cached`` (nothing had to be done), ``failed``, ``skipped`` (not reached).
        failure: of a failed job. output: path or URL of the delivered video.
        measures: reads the columns of ``schemas.tables.MEASURES``, each [frames]; None where there are none. Asked when the job's
            part of the page is made, by one of several threads, and forgotten: a night's frames are never in memory together.
        verdict: the fact ``verdict`` of the measure stage. notes: sentences for the reader.
        seconds: work per stage. parameters: what the job ran with. provenance: what the result's provenance says.
    """

    id: str
    source: str
    target: str
    rights: str
    status: Status
    failure: JobFailure | None = None
    output: str | None = None
    measures: Measures | None = None
    verdict: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        counts = self.verdict.get("frames")
        stated = counts.get("total") if isinstance(counts, Mapping) else None
        return int(stated) if stated is not None else 0


@dataclass(frozen=True)
class RunReport:
    """What the page says about a run.

    Attributes:
        name: of the catalogue. run_id: of the run. jobs: in the order of the catalogue. seconds: wall clock of the run, where it
            is known.
        output: folder or URL of the results (a report beside results on another machine lies in a folder of it).
        settings: in force, flat names to values. notes: sentences about the run as a whole.
        started: when, for people to read; empty where that is not wanted. stages: seconds of work per stage over all jobs.
    """

    name: str
    run_id: str
    jobs: Sequence[JobReport]
    seconds: float | None = None
    output: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    started: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)


def build_report(run: RunReport, out: Path, *, store: ArtifactStore | None = None) -> Path:
    """Write the page and what it plays.

    Args:
        run: what is to be shown. out: folder, made where it does not exist; pages and media of an earlier call are replaced or
            used again. store: whose scratch folder holds previews in the making; the system's temporary folder without one.

    Returns:
        The path of ``index.html``.

    Raises:
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    media = MediaFolder(out, scratch=None if store is None else store.scratch)
    media.prepare((address, in_place) for job in run.jobs for _, address, in_place in _media(job, run.output))
    points = _points(run.jobs)
    measures = _read_ahead([job.measures for job in run.jobs])
    details = [_detail(job, columns, media, out, points, run.output) for job, columns in zip(run.jobs, measures, strict=True)]
    # Most jobs of a run have the same parameters: what they ran with stands on the page once, and jobs point at it.
    parameters: dict[str, int] = {}
    for detail in details:
        detail["parameters"] = parameters.setdefault(embedded(detail["parameters"]), len(parameters))
    ordered = sorted(range(len(run.jobs)), key=lambda k: _rank(run.jobs[k]))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters["shown"] = without_credentials
    templates = resources.files("flows") / "templates"
    page = environment.from_string((templates / "report.html").read_text(encoding="utf-8")).render(
        run=run,
        jobs=[_row(run.jobs[k], k) for k in ordered],
        failures=[(k, run.jobs[k]) for k in ordered if run.jobs[k].status == "failed"],
        counts={status: sum(job.status == status for job in run.jobs) for status in ("done", "cached", "failed", "skipped")},
        grades={grade: sum(job.verdict.get("grade") == grade for job in run.jobs) for grade in ("good", "check", "poor")},
        frames=sum(job.frames for job in run.jobs),
        duration=None if run.seconds is None else duration(run.seconds),
        settings=sorted((str(name), _text(value)) for name, value in run.settings.items()),
        stages=[(name, duration(seconds)) for name, seconds in run.stages.items()],
        details=[(k, embedded(detail)) for k, detail in enumerate(details)],
        parameters=f"[{','.join(parameters)}]",
        plots=embedded([asdict(plot) for plot in PLOTS]),
        style=(templates / "report.css").read_text(encoding="utf-8"),
        script=(templates / "report.js").read_text(encoding="utf-8"),
    )
    target = out / "index.html"
    temporary = out / ".index.html.part"
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, target)
    return target


def _shown(value: Any) -> Any:
    """What a page says, without credentials, however deep the addresses lie."""
    if isinstance(value, Mapping):
        return {name: _shown(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    # Markup is the page's own.
    return told_without_credentials(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


def duration(seconds: float) -> str:
    """Seconds as people say them: ``4.2 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def embedded(value: Any) -> str:
    """JSON that is safe inside a script element: no ``<``, ``>`` or ``&``, no line separators, no NaN, no literal address."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("://", ":\\/\\/"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(character, escape)
    return text


def packed(values: npt.NDArray[Any], points: int, better: str) -> dict[str, Any] | None:
    """A column small enough for a page: bytes 0..254 between its least and largest value, 255 where there is none, base64.

    Where there are more values than ``points``, every point is the worst of its run of frames. None without any finite value.
    """
    numbers = np.asarray(values, np.float64)
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    if not np.isfinite(numbers).any():
        return None
    step = max(1, math.ceil(len(numbers) / points))
    if step > 1:
        filled = np.concatenate([numbers, np.full(-len(numbers) % step, np.nan)]).reshape(-1, step)
        worst = np.fmax if better == "low" else np.fmin
        numbers = worst.reduce(filled, axis=1)
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    span = high - low or 1.0
    levels = np.where(np.isnan(numbers), 255, np.round((np.nan_to_num(numbers, nan=low) - low) / span * 254)).astype(np.uint8)
    return {
        "low": float(f"{low:.4g}"),
        "high": float(f"{high:.4g}"),
        "step": step,
        "levels": base64.b64encode(levels.tobytes()).decode(),
    }


def flagged_ranges(flags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Runs of equally flagged rows: (first row, end row, reasons), rows without a flag left out."""
    ranges: list[tuple[int, int, str]] = []
    for row, reason in enumerate(flags):
        if not reason:
            continue
        if ranges and ranges[-1][1] == row and ranges[-1][2] == reason:
            ranges[-1] = (ranges[-1][0], row + 1, reason)
        else:
            ranges.append((row, row + 1, reason))
    return ranges


def kept_ranges(generated: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs of rows that show the target's own frame: (first row, end row)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~np.asarray(generated, bool), [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def fewer_ranges(ranges: Sequence[tuple[Any, ...]], most: int) -> list[tuple[Any, ...]]:
    """At most that many ranges (first row, end row, or with reasons): those with the smallest gaps between them are joined."""
    if len(ranges) <= most:
        return list(ranges)
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(ranges)]
    kept = sorted(sorted(range(len(gaps)), key=lambda k: (-gaps[k], k))[: most - 1])
    joined = []
    for first, last in zip([0, *(k + 1 for k in kept)], [*kept, len(ranges) - 1], strict=True):
        reasons = dict.fromkeys(reason for item in ranges[first : last + 1] for text in item[2:] for reason in text.split(","))
        joined.append((ranges[first][0], ranges[last][1], *([",".join(reasons)] if reasons else [])))
    return joined


def _points(jobs: Sequence[JobReport]) -> int:
    measured = sum(job.measures is not None for job in jobs)
    each = PAGE_BYTES / max(1, measured) / (len(PLOTS) * 4 / 3)
    return int(np.clip(each, LEAST_POINTS, MOST_POINTS))


def _rank(job: JobReport) -> int:
    if job.status == "failed":
        return 0
    return {"poor": 1, "check": 2}.get(str(job.verdict.get("grade", "")), 3)


def _row(job: JobReport, number: int) -> dict[str, Any]:
    grade = str(job.verdict.get("grade") or "")
    return {
        "number": number,
        "id": job.id,
        "status": job.status,
        "grade": grade,
        "source": name_of(job.source),
        "target": name_of(job.target),
        "frames": job.frames or "",
        "note": job.failure.message if job.failure else "; ".join(str(reason) for reason in job.verdict.get("reasons") or ()),
    }


def _media(job: JobReport, results: str) -> Iterator[tuple[str, str, bool]]:
    """What a job shows of local media: its role, its address, and whether it is the run's own and stays where it is."""
    if job.status in DONE or job.measures is not None:
        yield "target", job.target, False
        yield "source", job.source, False
        if job.output is not None and _beside(job.output, results) is None:
            yield "result", job.output, True


def _read_ahead(measures: Sequence[Measures | None]) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Columns of one job after the other, while those of the next ones are being read."""
    with ThreadPoolExecutor(READERS) as readers:
        reading: deque[Future[Mapping[str, npt.NDArray[Any]]]] = deque()
        for read in measures:
            reading.append(readers.submit(dict if read is None else read))
            if len(reading) == READERS:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()


def _detail(
    job: JobReport, measures: Mapping[str, npt.NDArray[Any]], media: MediaFolder, out: Path, points: int, results: str
) -> dict[str, Any]:
    notes = [str(note) for note in job.notes]
    shown = {}
    for role, address, in_place in _media(job, results):
        shown[role] = media.show(address, in_place=in_place)
        if shown[role].note:
            notes.append(f"{role.capitalize()}: {shown[role].note}")
    beside = None if job.output is None else _beside(job.output, results)
    if beside is not None:
        shown["result"] = Shown(beside, "video")
    seconds = np.asarray(measures.get("seconds", ()), np.float64)
    generated = np.asarray(measures.get("generated", ()), bool)
    flags = [str(flag) for flag in measures.get("flags", ())]
    series = {}
    for plot in PLOTS:
        if plot.column in measures:
            column = packed(measures[plot.column], points, plot.better)
            if column is not None:
                series[plot.column] = column
    told = {
        "id": job.id,
        "status": job.status,
        "failure": None if job.failure is None else asdict(job.failure),
        "source": without_credentials(job.source),
        "target": without_credentials(job.target),
        "output": None if job.output is None else without_credentials(job.output),
        "output_link": None if job.output is None else beside or link(job.output, out),
        "media": {role: {"address": item.address, "kind": item.kind} for role, item in shown.items()},
        "frames": len(seconds) or job.frames,
        # A page plays by time: the times of a variable frame rate are needed, of a constant one the first step is enough.
        "times": _times(seconds, points),
        "series": series,
        "flagged": fewer_ranges(flagged_ranges(flags), max(24, points // 4)),
        "kept": fewer_ranges(kept_ranges(generated), max(24, points // 4)),
        "verdict": _plain(job.verdict),
        "notes": notes,
        "seconds": {name: round(float(value), 2) for name, value in job.seconds.items()},
        "parameters": {str(name): _text(value) for name, value in sorted(_flat(job.parameters).items())},
        "provenance": {str(name): _text(value) for name, value in sorted(_flat(job.provenance).items())},
    }
    shown_all = cast(dict[str, Any], _shown(told))
    # The ground on which a likeness is used is told in the very words.
    shown_all["rights"] = job.rights
    if "rights" in job.provenance:
        shown_all["provenance"]["rights"] = _text(job.provenance["rights"])
    return shown_all


def _times(seconds: npt.NDArray[np.float64], points: int) -> dict[str, Any]:
    """Seconds of the frames: a constant step, or a list of every ``stride``-th, between which times are interpolated."""
    if len(seconds) < 2:
        return {"step": 0.04}
    steps = np.diff(seconds)
    step = float((seconds[-1] - seconds[0]) / (len(seconds) - 1))
    if np.abs(steps - step).max() < 0.25 * step:
        return {"step": round(step, 7)}
    stride = math.ceil((len(seconds) - 1) / points)
    frames = np.arange(0, len(seconds) - 1 + stride, stride)
    beyond = seconds[-1] + step * np.maximum(frames - (len(seconds) - 1), 0)
    listed = np.where(frames < len(seconds), seconds[np.minimum(frames, len(seconds) - 1)], beyond)
    return {"step": round(step, 7), "stride": stride, "list": [round(float(value), 4) for value in listed]}


def _beside(address: str, results: str) -> str | None:
    """The relative link to a result that lies on another machine, in the folder or bucket the report goes into too."""
    root = results.rstrip("/") + "/"
    if local_path(address) is not None or not address.startswith(root):
        return None
    return "../" + quote(address.removeprefix(root))


def link(address: str, out: Path) -> str | None:
    """A relative link from the report to a local file; None for what is not on a local disk."""
    path = local_path(address)
    if path is None:
        return None
    try:
        return quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())
    except ValueError:  # another drive
        return None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "–"
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Numbers, texts, lists and mappings that JSON knows; a number that is none becomes None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
