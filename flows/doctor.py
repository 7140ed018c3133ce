"""Is everything here that a run needs? Each check says what was found and, where it is not right, what to do."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.text import Text

from schemas.configuration import Settings, usable_cores
from schemas.places import expanded_path
from schemas.problems import HeadswapError, ModelError, UsageError
from stages.networks.registry import ModelRegistry
from storage.sources import local_path
from storage.store import ArtifactStore

CheckState = Literal["ok", "warning", "failed"]

LEAST_MEMORY = 4 * 2**30
MEMORY_PER_WORKER = 2 * 2**30
LEAST_SPACE = 5 * 2**30
PACKAGES_THAT_BREAK = {
    "torchvision": "with a CPU build of torch it breaks transformers and diffusers; nothing here needs it",
    "opencv-python": "two packages of OpenCV overwrite each other's files",
    "opencv-contrib-python": "two packages of OpenCV overwrite each other's files",
    "opencv-python-headless": "two packages of OpenCV overwrite each other's files",
}


LARGE_PACKAGES = ("cv2", "mediapipe", "numba", "pyarrow", "pydantic", "scipy", "torch")


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    state: CheckState
    detail: str
    remedy: str = ""


def check_up(settings: Settings, registry: ModelRegistry) -> list[Check]:
    """All checks, in an order that puts causes before their effects. Takes some seconds: it imports Prefect's server.

    A check that breaks down is itself reported as failed; nothing is raised.
    """
    checks: list[Check] = []
    parts: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("python", check_python),
        ("packages", lambda: check_packages(constraints())),
        ("foreign packages", check_foreign_packages),
        ("compiled modules", check_compiled_modules),
        ("prefect", check_prefect),
        ("processor", lambda: check_processor(settings)),
        ("accelerator", lambda: check_accelerator(settings)),
        ("memory", lambda: check_memory(settings)),
        ("scratch", lambda: check_scratch(settings)),
        ("store", lambda: check_store(settings)),
        ("models", lambda: check_models(settings, registry)),
        ("signing", lambda: check_signing(settings)),
        ("settings", lambda: list_settings(settings)),
    ]
    for name, part in parts:
        try:
            checks += part()
        except Exception as error:  # noqa: BLE001 -- a doctor that falls ill says so and goes on
            checks.append(
                Check(name, "failed", f"the check itself failed: {type(error).__name__}: {error}", "Report this as a bug.")
            )
    return checks


def check_python() -> Iterable[Check]:
    version = platform.python_version()
    right = sys.version_info[:2] == (3, 11)
    system = f"{platform.system()} {platform.machine()}"
    yield Check(
        "python",
        "ok" if right else "failed",
        f"{version}, {system}",
        "" if right else "Install Python 3.11 and run `make environment`.",
    )


def constraints(text: str | None = None) -> dict[str, str]:
    """Exact versions by canonical name: of constraints.txt beside the sources, else of the package's own requirements.

    An installed wheel has no constraints.txt; its requirements pin what matters most.
    """
    file = Path(__file__).resolve().parent.parent / "constraints.txt"
    if text is None and file.is_file():
        text = file.read_text(encoding="utf-8")
    lines = text.splitlines() if text is not None else importlib.metadata.requires("headswap") or []
    pinned: dict[str, str] = {}
    for line in lines:
        line = line.split("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line)
        exact = [part.version for part in requirement.specifier if part.operator == "=="]
        if exact and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            pinned[canonicalize_name(requirement.name)] = exact[0]
    return pinned


def check_packages(pinned: Mapping[str, str]) -> Iterable[Check]:
    """Are the required packages here, at the versions that were tested together?"""
    needed = {
        canonicalize_name(Requirement(text).name)
        for text in importlib.metadata.requires("headswap") or []
        if "extra ==" not in text
    }
    missing, different = [], []
    installed = 0
    for name in sorted(set(pinned) | needed):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in needed:
                missing.append(name)
            continue
        installed += 1
        # A local version names a build (2.13.0+cpu) of the same release.
        if name in pinned and version.split("+")[0] != pinned[name].split("+")[0]:
            different.append(f"{name} {version} (tested: {pinned[name]})")
    remedy = "Run `make environment` again in a fresh virtual environment."
    if missing:
        yield Check("packages", "failed", f"missing: {', '.join(missing)}", remedy)
    if different:
        yield Check("packages", "warning", f"other versions than tested: {', '.join(different)}", remedy)
    if not missing and not different:
        yield Check("packages", "ok", f"{installed} at the versions that were tested together")


def check_foreign_packages(installed: Iterable[str] | None = None) -> Iterable[Check]:
    """Packages whose mere presence breaks something."""
    names = installed if installed is not None else (found.metadata["Name"] or "" for found in importlib.metadata.distributions())
    present = {canonicalize_name(name) for name in names}
    found = sorted(present & set(PACKAGES_THAT_BREAK))
    for name in found:
        yield Check(
            "foreign packages", "failed", f"{name} is installed: {PACKAGES_THAT_BREAK[name]}", f"Run `pip uninstall {name}`."
        )
    if not found:
        yield Check("foreign packages", "ok", "no torchvision, one OpenCV")


def check_compiled_modules(packages: Iterable[str] = LARGE_PACKAGES) -> Iterable[Check]:
    """Does every new process compile the packages anew, because nothing compiled is there and nothing may be written?

    Images of containers often set PYTHONDONTWRITEBYTECODE, and installers like uv leave compiling to the first import.
    """
    missing = {name: place for name in packages if (place := _compiled(name)) is not None and not place.is_file()}
    if missing and (sys.dont_write_bytecode or not all(map(_can_be_made, missing.values()))):
        yield Check(
            "compiled modules",
            "warning",
            f"none of {', '.join(missing)}, and none can be kept: every worker compiles what it imports, for seconds",
            f"Run `{sys.executable} -m compileall -q -j 0 {sysconfig.get_path('purelib')}` where that folder can be written, "
            "or unset PYTHONDONTWRITEBYTECODE.",
        )
    else:
        yield Check("compiled modules", "ok", "kept")


def _compiled(package: str) -> Path | None:
    """Where the compiled form of a package's first module belongs; None where the package has no source here."""
    found = importlib.util.find_spec(package)
    if found is None or found.cached is None:
        return None
    return Path(found.cached)


def _can_be_made(compiled: Path) -> bool:
    there = next(folder for folder in compiled.parents if folder.is_dir())
    return os.access(there, os.W_OK)


def check_prefect() -> Iterable[Check]:
    """Does Prefect's server import? It does not with a fastapi that plain pip chooses."""
    try:
        importlib.import_module("prefect.server.api.server")
    except Exception as error:  # noqa: BLE001 -- an import may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        yield Check(
            "prefect",
            "failed",
            f"its server does not import: {reason}",
            "Run `make environment` again, or use --engine direct meanwhile.",
        )
        return
    where = os.environ.get("PREFECT_API_URL")
    version = importlib.metadata.version("prefect")
    yield Check("prefect", "ok", f"{version}, " + (f"server at {where}" if where else "with a server of its own for each run"))


def check_processor(settings: Settings) -> Iterable[Check]:
    cores = usable_cores()
    detail = f"{cores} usable cores of {os.cpu_count()}, {settings.workers} workers"
    if settings.workers > 2 * cores:
        yield Check("processor", "warning", detail, f"More workers than cores only cost memory: --workers {cores}.")
    else:
        yield Check("processor", "ok", detail)


def check_accelerator(settings: Settings) -> Iterable[Check]:
    import torch  # only here: seconds that the other commands should not pay

    from stages.networks.runtime import find_device, gpu_count, unserved_gpus, unusable_gpus

    count = gpu_count()
    why = unusable_gpus()
    problems: list[ModelError] = []
    for name in settings.device.split(",") if settings.device.startswith("cuda") else ():
        try:
            find_device(name)
        except ModelError as error:
            problems.append(error)
    if problems:
        yield Check(
            "accelerator",
            "failed",
            f"{settings.device} is asked for (torch {torch.__version__}): " + " ".join(error.message for error in problems),
            " ".join(dict.fromkeys(error.remedy for error in problems)),
        )
    elif count:
        devices = [torch.cuda.get_device_properties(number) for number in range(count)]
        told = "; ".join(f"{device.name}, {_size(device.total_memory)}" for device in devices)
        unserved = unserved_gpus().values()
        if unserved:
            remedy = "They are left alone; install a PyTorch that is built for them."
            yield Check("accelerator", "warning", f"{told}: {'; '.join(unserved)}", remedy)
        else:
            yield Check("accelerator", "ok", told)
    elif why is not None:
        yield Check(
            "accelerator",
            "warning",
            f"there is a GPU, but torch {torch.__version__} cannot use it: {why}",
            "Mend the driver; until then everything runs on the CPU.",
        )
    elif "diffusion" in (settings.renderer, settings.stages.render.renderer):
        yield Check(
            "accelerator",
            "warning",
            f"no GPU (torch {torch.__version__}): the diffusion renderer takes "
            + ("seconds a frame" if settings.profile == "demo" else "many minutes a frame with --profile full"),
            "Preview with --renderer warp.",
        )
    else:
        yield Check("accelerator", "ok", f"no GPU (torch {torch.__version__}); the warp renderer needs none")


def check_memory(settings: Settings) -> Iterable[Check]:
    total, limited = _memory_limit()
    detail = (
        f"{_size(total)}"
        + (" (limit of the container)" if limited else "")
        + f", {_size(psutil.virtual_memory().available)} free"
    )
    needed = max(LEAST_MEMORY, settings.workers * MEMORY_PER_WORKER)
    if total < needed:
        fewer = max(1, total // MEMORY_PER_WORKER)
        yield Check(
            "memory", "warning", f"{detail}; {settings.workers} workers may want {_size(needed)}", f"Use --workers {fewer}."
        )
    else:
        yield Check("memory", "ok", detail)


def check_scratch(settings: Settings) -> Iterable[Check]:
    beside = expanded_path(settings.store) if settings.store and "://" not in settings.store else None
    if settings.scratch:
        folder = expanded_path(settings.scratch)
    elif beside is not None and beside.is_dir():
        folder = beside / "scratch" if (beside / "scratch").is_dir() else beside
    else:
        folder = Path(tempfile.gettempdir())
    if not folder.is_dir():
        yield Check("scratch", "warning", f"{folder} does not exist yet; it is made when needed")
        return
    if not os.access(folder, os.W_OK):
        yield Check("scratch", "failed", f"{folder} cannot be written", "Set `scratch` to a folder that can.")
        return
    yield _space("scratch", folder, "Set `scratch` to a larger disk.")


def list_settings(settings: Settings) -> Iterable[Check]:
    """What is set to something else than its default, and where."""
    for setting in settings.describe():
        if setting.origin != "default":
            yield Check(f"setting {setting.name}", "ok", f"{setting.value} ({setting.origin})")


def check_store(settings: Settings) -> Iterable[Check]:
    """Can the store be reached, and does its protocol work there: is the second of two creators told that it lost?"""
    if not settings.store:
        yield Check("store", "warning", "none is given", "Give --store, or set HEADSWAP_STORE, to have it checked.")
        return
    here = local_path(settings.store)
    new = None if here is None or here.exists() else next(folder for folder in (here, *here.parents) if folder.parent.exists())
    try:
        with ArtifactStore.open(settings.store, **settings.hidden()) as store:
            yield from _check_protocol(store)
            if new is not None:
                yield Check(
                    "store",
                    "warning",
                    f"nothing lies at {store.url} yet",
                    "`headswap run` makes a store; see that this is meant.",
                )
            if store.is_local:
                yield _space(
                    "store space",
                    Path(store.url.removeprefix("file://")),
                    "Run `headswap gc` (docs/operations.md, Space), or move the store.",
                )
    except HeadswapError as error:
        yield Check("store", "failed", error.message, error.remedy)
    finally:
        for folder, _, _ in [] if new is None else os.walk(new, topdown=False):
            with suppress(OSError):  # a run has begun there meanwhile
                os.rmdir(folder)


def check_signing(settings: Settings) -> Iterable[Check]:
    """Can the certificate and the key sign that results are to be signed with?"""
    signing = settings.provenance
    if signing.certificate is None or signing.key is None:
        return
    from stages.video.provenance import try_signing  # loads a native library that few runs need

    try:
        try_signing(Path(signing.certificate), Path(signing.key))
        yield Check("signing", "ok", f"{signing.certificate} and {signing.key} can sign")
    except UsageError as error:
        yield Check("signing", "failed", " ".join(error.problems), error.remedy)


def check_models(settings: Settings, registry: ModelRegistry) -> Iterable[Check]:
    for status in registry.list():
        name = f"model {status.name}"
        entry = registry.entry(status.name)
        how = f"`headswap models pull {status.name}`" if entry.url else entry.note or f"`headswap models add {status.name} FILE`"
        if status.state == "damaged":
            yield Check(
                name,
                "failed",
                status.detail,
                f"`headswap models pull {status.name}` or `headswap models add {status.name} FILE`.",
            )
        elif status.state == "missing":
            yield Check(name, "ok", f"not here (optional); serves {status.serves}", how)
        elif settings.commercial and not status.commercial:
            yield Check(
                name,
                "warning",
                f"its licence forbids commercial use: {status.licence}",
                "It is refused in a run with --commercial.",
            )
        else:
            yield Check(name, "ok", f"here, {_size(status.bytes)}; serves {status.serves}")


def print_checks(checks: Iterable[Check], console: Console) -> None:
    """A line a check, its remedy below where something is to be done, and a count at the end."""
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    counts = Counter[str]()
    for check in checks:
        counts[check.state] += 1
        console.print(Text.assemble((f"{check.state:8}", colours[check.state]), (f"{check.name:20} ", "bold"), check.detail))
        if check.remedy and check.state != "ok":
            console.print(Text(f"{'':29}{check.remedy}", style="dim"))
    console.print(Text(", ".join(f"{counts[state]} {state}" for state in colours)))


# ---- what the checks look at


def _check_protocol(store: ArtifactStore) -> Iterable[Check]:
    path = f"doctor/{uuid.uuid4().hex}.json"
    try:
        first = store.backend.create(path, b"first")
        second = store.backend.create(path, b"second")
        content = store.backend.read(path)
    finally:
        store.backend.delete([path])
    if first and not second and content == b"first":
        yield Check("store", "ok", f"{store.url}: reachable, and of two creators the second is refused")
    else:
        yield Check(
            "store",
            "failed",
            f"{store.url} does not create objects exactly once; two workers could overwrite each other",
            "Use an object store with conditional writes (S3 `If-None-Match`), or a local disk.",
        )


def _space(name: str, folder: Path, remedy: str) -> Check:
    usage = shutil.disk_usage(folder)
    detail = f"{folder}: {_size(usage.free)} free of {_size(usage.total)}"
    return Check(name, "ok", detail) if usage.free >= LEAST_SPACE else Check(name, "warning", detail, remedy)


def _memory_limit() -> tuple[int, bool]:
    """Bytes of memory that this process may use, and whether a control group sets that rather than the machine."""
    machine = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine, False  # no control group of version 2
    return (int(limit), True) if limit.isdigit() and int(limit) < machine else (machine, False)


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
