"""The `headswap` command: parses, calls flows, prints. No logic.

Exit status: 0 all done; 1 some jobs failed (each named, with its reason); 2 wrong usage or configuration (all problems at once);
130 or 143: stopped by Ctrl-C or by SIGTERM.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from flows.streams import PatientConsole, outlive_readers
from schemas.names import counted
from schemas.places import expanded_path, without_credentials
from schemas.problems import HeadswapError, UsageError

app = typer.Typer(
    name="headswap",
    help="Replace the head of a person in a video by the head of one portrait, over whole catalogues, resumable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="Networks: nothing downloads by itself.", no_args_is_help=True)
app.add_typer(models_app, name="models")
performers_app = typer.Typer(help="Synthetic people with ground truth.", no_args_is_help=True)
app.add_typer(performers_app, name="performers")
face_model_app = typer.Typer(help="The built-in morphable model.", no_args_is_help=True)
app.add_typer(face_model_app, name="face-model")
dataset_app = typer.Typer(help="Training data.", no_args_is_help=True)
app.add_typer(dataset_app, name="dataset")

out_console = PatientConsole(soft_wrap=True)
error_console = PatientConsole(stderr=True, soft_wrap=True)

DONE, FAILED, WRONG_USAGE, STOPPED, TERMINATED = 0, 1, 2, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a machine that goes down (or a scheduler) sends: the run ends as after Ctrl-C."""


class RendererName(StrEnum):
    warp = "warp"
    diffusion = "diffusion"


class EngineName(StrEnum):
    prefect = "prefect"
    direct = "direct"


class ShardFormatName(StrEnum):
    webdataset = "webdataset"
    parquet = "parquet"


class ProfileName(StrEnum):
    demo = "demo"
    full = "full"


StoreOption = Annotated[str | None, typer.Option("--store", metavar="URL", help="Folder or URL of the artifact store.")]
OutOption = Annotated[
    str | None, typer.Option("--out", metavar="URL", help="Where videos and the report go. Default: results/ in the store.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file with settings (docs/configuration.md).")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting, e.g. stages.encode.crf=18. Repeatable.")
]
EngineOption = Annotated[EngineName | None, typer.Option("--engine", help="prefect, or direct: the same plan without a server.")]
RendererOption = Annotated[RendererName | None, typer.Option("--renderer", help="For jobs that name none.")]
ProfileOption = Annotated[ProfileName | None, typer.Option("--profile", help="Size of the diffusion renderer's networks.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes. Default: the usable cores.")]
CommercialOption = Annotated[bool, typer.Option("--commercial", help="Refuse models whose licence forbids commercial use.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
RunArgument = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's id. Default: the latest.")]


def command(group: typer.Typer, name: str | None = None) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a function as a command: its result is the exit status, its errors are told in words."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> None:
            as_json = bool(options.get("as_json"))
            raise typer.Exit(exit_status(functools.partial(function, *arguments, **options), as_json=as_json))

        group.command(name)(call)
        return function

    return register


def exit_status(call: Callable[[], int], *, as_json: bool = False) -> int:
    try:
        return call()
    except HeadswapError as error:
        tell_error(error)
        if as_json:
            print_json({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt as stop:
        error_console.print("\nStopped. What was committed stays; give the same command again to go on.")
        return TERMINATED if isinstance(stop, Terminated) else STOPPED


def tell_error(error: HeadswapError) -> None:
    if isinstance(error, UsageError):
        for problem in error.problems:
            error_console.print(Text.assemble(("error ", "red"), problem))
    else:
        error_console.print(Text.assemble((f"{error.code} ", "red"), error.message))
    if error.remedy:
        error_console.print(Text(f"      {error.remedy}"))


def settings_of(
    config: Path | None, assignments: list[str] | None, *, defaults: Mapping[str, Any] | None = None, **flags: Any
) -> Any:
    from schemas.configuration import load_settings, parse_assignments

    given: dict[str, Any] = dict(parse_assignments(assignments or []))
    given.update(
        {name: str(value) if isinstance(value, StrEnum) else value for name, value in flags.items() if value is not None}
    )
    return load_settings(given, os.environ, config, defaults=defaults)


def open_store(settings: Any, *, existing: bool = False) -> Any:
    from storage.store import ArtifactStore

    if not settings.store:
        raise UsageError(["No store is given."], "Say where intermediates are kept: --store FOLDER_OR_URL, or HEADSWAP_STORE.")
    scratch = expanded_path(settings.scratch) if settings.scratch else None
    return ArtifactStore.open(settings.store, scratch=scratch, existing=existing, **settings.hidden())


def registry_of(settings: Any) -> Any:
    from stages.networks.registry import ModelRegistry

    return ModelRegistry(settings.models)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def run_and_tell(jobs: Sequence[Any], store: Any, settings: Any, *, name: str, as_json: bool, **options: Any) -> int:
    from flows.catalogue import run_jobs
    from flows.progress import ProgressView
    from flows.summary import print_summary, summary

    with ProgressView(error_console, quiet=as_json) as view:
        result = run_jobs(jobs, store, settings, name=name, events=[view], **options)
    if as_json:
        print_json(summary(result, store))
    else:
        print_summary(result, store, out_console)
    return result.exit_status


@command(app)
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For the store, the videos and the report.")] = Path(
        "demo-output"
    ),
    renderer: RendererOption = None,
    engine: EngineOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> int:
    """The example catalogue to videos and a report, on the built-in defaults."""
    from flows.examples import DEMO_SAMPLING, demo_renderer, example_catalogue

    chosen, why = demo_renderer(registry_of(settings_of(None, None)), renderer)
    error_console.print(why, markup=False, highlight=False)
    settings = settings_of(
        None,
        None,
        store=str(out / "store"),
        out=str(out),
        renderer=chosen,
        defaults={"engine": "direct"},
        engine=engine,
        profile="demo",
        workers=workers,
        **DEMO_SAMPLING,
    )
    catalogue = example_catalogue()
    with open_store(settings) as store:
        return run_and_tell(catalogue.jobs, store, settings, name="demo", as_json=as_json, output_url=str(out))


@command(app)
def swap(
    source: Annotated[str, typer.Argument(help="Picture (or video) of the head to put on: path or URL.")],
    target: Annotated[str, typer.Argument(help="Video (or picture) whose head is replaced: path or URL.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The video to write.")],
    rights: Annotated[str, typer.Option("--rights", metavar="TEXT", help="On what ground the source's likeness is used.")] = "",
    renderer: RendererOption = None,
    edit: Annotated[str | None, typer.Option("--edit", metavar="FILE", help="Expression and pose edits.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="Whose head: largest, a number, or a picture.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    store_url: StoreOption = None,
    engine: EngineOption = None,
    profile: ProfileOption = None,
    workers: WorkersOption = None,
    commercial: CommercialOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """One pair: SOURCE's head on TARGET's body."""
    from flows.examples import single_job

    settings = settings_of(
        config,
        assignments,
        defaults={"store": str(expanded_path("~/.cache/headswap/store")), "engine": "direct"},
        store=store_url,
        engine=engine,
        renderer=renderer,
        profile=profile,
        workers=workers,
        commercial=commercial or None,
    )
    job = single_job(
        source,
        target,
        output,
        rights=rights,
        renderer=renderer,
        edits=edit,
        subject=subject,
        seed=seed,
        options_for=settings.storage_options_of,
    )
    with open_store(settings) as store:
        folder = str(output.absolute().parent)
        return run_and_tell(
            [job], store, settings, name=job.id, as_json=as_json, output_url=folder, report_name=f"{output.stem}-report"
        )


@command(app)
def run(
    catalogue: Annotated[str, typer.Argument(help="CSV, JSON Lines or Parquet: path or URL (docs/catalogue.md).")],
    store_url: StoreOption = None,
    out: OutOption = None,
    renderer: RendererOption = None,
    profile: ProfileOption = None,
    engine: EngineOption = None,
    workers: WorkersOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also try again what failed for good before.")] = False,
    commercial: CommercialOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """A whole catalogue. The same command again goes on where a killed run was."""
    from flows.catalogue import default_output
    from schemas.catalogue import read_catalogue
    from schemas.places import name_of

    settings = settings_of(
        config,
        assignments,
        store=store_url,
        out=out,
        renderer=renderer,
        profile=profile,
        engine=engine,
        workers=workers,
        commercial=commercial or None,
    )
    found = read_catalogue(catalogue, storage_options=settings.storage_options_of(catalogue))
    with open_store(settings) as store:
        name = name_of(catalogue).rsplit(".", 1)[0]
        return run_and_tell(
            found.jobs,
            store,
            settings,
            name=name,
            as_json=as_json,
            output_url=settings.out or default_output(store, name),
            retry_failed=retry_failed,
            asked={"catalogue": catalogue, "catalogue_digest": found.digest},
        )


@command(app)
def plan(
    catalogue: Annotated[str, typer.Argument(help="CSV, JSON Lines or Parquet: path or URL.")],
    store_url: StoreOption = None,
    renderer: RendererOption = None,
    profile: ProfileOption = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """What is cached, what would run, frames, estimated time and bytes. Runs nothing."""
    from flows.summary import plan_document, print_plan
    from schemas.catalogue import read_catalogue

    settings = settings_of(config, assignments, store=store_url, renderer=renderer, profile=profile, workers=workers)
    found = read_catalogue(catalogue, storage_options=settings.storage_options_of(catalogue))
    with open_store(settings) as store:
        document = plan_document(found.jobs, store, settings, registry_of(settings))
    if as_json:
        print_json(document)
    else:
        print_plan(document, out_console)
    return DONE


@command(app)
def status(
    run_id: RunArgument = None, store_url: StoreOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> int:
    """How a run went, or goes: jobs done, cached, failed with reasons."""
    from flows.summary import print_status, status_document

    with open_store(settings_of(config, None, store=store_url), existing=True) as store:
        document = status_document(store, run_id)
    if as_json:
        print_json(document)
    else:
        print_status(document, out_console)
    return FAILED if document["failed"] else DONE


@command(app)
def retry(
    run_id: RunArgument = None,
    store_url: StoreOption = None,
    engine: EngineOption = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Try a run's failed and unfinished jobs again, bad inputs included; what is committed is not done again."""
    from flows.retrying import changes_by, unfinished

    settings = settings_of(config, None, store=store_url)
    changes = {"engine": engine and str(engine), "workers": workers, **changes_by(settings)}
    with open_store(settings, existing=True) as store:
        again = unfinished(store, run_id, changes)
        if not again.jobs:
            if as_json:
                print_json({"run": again.run_id, "jobs": 0})
            else:
                out_console.print(f"Nothing to do: every job of {again.run_id} is done.")
            return DONE
        return run_and_tell(
            again.jobs,
            store,
            again.settings,
            name=again.name,
            as_json=as_json,
            output_url=again.output_url,
            retry_failed=True,
            whole=again.whole,
        )


@command(app)
def report(
    run_id: RunArgument = None,
    store_url: StoreOption = None,
    out: OutOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write a run's report page again."""
    from flows.retrying import rebuild_report

    settings = settings_of(config, None, store=store_url)
    with open_store(settings, existing=True) as store:
        page = without_credentials(rebuild_report(store, run_id, out, settings.hidden()))
    if as_json:
        print_json({"report": page})
    else:
        typer.echo(page)
    return DONE


@command(app)
def inspect(
    clip: Annotated[str, typer.Argument(help="A clip (path or URL), or the id of a job of the latest run.")],
    store_url: StoreOption = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the pictures.")] = Path("inspect"),
    subject: Annotated[str | None, typer.Option("--subject")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """A clip's (or a job's) intermediates as pictures."""
    from flows.inspection import inspect_from_store

    settings = settings_of(config, assignments, store=store_url)
    with open_store(settings, existing=True) as store:
        pictures = inspect_from_store(clip, store, settings, registry_of(settings), out, subject=subject)
    if as_json:
        print_json({"pictures": [str(path) for path in pictures]})
    else:
        for path in pictures:
            typer.echo(str(path))
    return DONE


@command(models_app, "list")
def models_list(config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """What is known, what is here, under which licence, and what it serves."""
    from flows.models import describe

    entries = describe(registry_of(settings_of(config, None)))
    if as_json:
        print_json(entries)
        return DONE
    table = Table("name", "state", "licence", "commercial", "serves", box=None)
    for entry in entries:
        table.add_row(entry["name"], entry["state"], entry["licence"], "yes" if entry["commercial"] else "no", entry["serves"])
    out_console.print(table)
    for entry in entries:
        if entry["detail"]:
            out_console.print(f"{entry['name']}: {entry['detail']}", markup=False, highlight=False, soft_wrap=True)
    return DONE


@command(models_app, "add")
def models_add(
    name: Annotated[str, typer.Argument(help="A name of `models list`; for a pipeline any, such as headswap-full.")],
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE|FOLDER", help="Already on this machine; a pipeline is a folder."),
    ],
    licence: Annotated[str | None, typer.Option("--licence", metavar="TEXT", help="A pipeline's terms.")] = None,
    commercial: Annotated[
        bool | None, typer.Option("--commercial-use/--no-commercial-use", help="Whether these allow commercial use.")
    ] = None,
    origin: Annotated[str | None, typer.Option("--origin", metavar="TEXT", help="Where a pipeline comes from.")] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Take .pth and .bin files; their weights and nothing else are read.")
    ] = False,
    allow_unknown_digest: Annotated[
        bool, typer.Option("--allow-unknown-digest", help="Take another file than the known one.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Register a file, or a pipeline of the diffusion renderer (AniPortrait's and AnimateAnyone's files are converted)."""
    from flows.models import add

    registered = add(
        registry_of(settings_of(config, None)),
        name,
        source,
        licence=licence,
        commercial=commercial,
        origin=origin,
        allow_pickle=allow_pickle,
        allow_unknown_digest=allow_unknown_digest,
        tell=lambda line: error_console.print(line, markup=False, highlight=False),
    )
    if as_json:
        print_json(registered)
    else:
        out_console.print(f"{name} is registered.")
        for note in registered.get("notes", ()):
            out_console.print(f"  {note}")
    return DONE


@command(models_app, "pack-ict")
def models_pack_ict(
    folder: Annotated[Path, typer.Argument(help="FaceXModel of github.com/ICT-VGL/ICT-FaceKit.")],
    out: Annotated[Path, typer.Argument(help="File to write, .npz.")],
) -> int:
    """Pack the files of the ICT-FaceKit into the one that `models add ict` takes."""
    from flows.performers import pack_head_model

    pack_head_model(folder, out)
    out_console.print(f"Written. Register it with: headswap models add ict {out}", markup=False, soft_wrap=True)
    return DONE


@command(models_app, "pull")
def models_pull(
    name: Annotated[str, typer.Argument(help="A name of `models list`.")],
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> int:
    """Download a model after showing its licence."""
    from flows.models import pull

    pull(registry_of(settings_of(config, None)), name, accepted=accept_licence, ask=typer.confirm, tell=typer.echo)
    return DONE


@command(models_app, "verify")
def models_verify(config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Hash every registered file again."""
    from flows.models import verify

    entries = verify(
        registry_of(settings_of(config, None)),
        lambda line: error_console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    if as_json:
        print_json(entries)
    else:
        for entry in entries:
            detail = f" {entry['detail']}" if entry["state"] == "damaged" else ""
            out_console.print(f"{entry['name']}: {entry['state']}.{detail}", markup=False, highlight=False)
    return FAILED if any(entry["state"] == "damaged" for entry in entries) else DONE


HeadModelOption = Annotated[
    Path | None, typer.Option("--head-model", metavar="FILE", help="Packed ICT-FaceKit. Default: the registered model `ict`.")
]


def processes_of(workers: int | None) -> int:
    from schemas.configuration import usable_cores

    return workers or usable_cores()


def tell_share(what: str, quiet: bool) -> Callable[[int, int], None]:
    return lambda done, total: None if quiet else error_console.print(f"{what} {done} of {total}")


@command(app)
def train(
    preset: Annotated[ProfileName, typer.Option("--preset", help="Sizes of the networks, and the recipe that goes with them.")],
    data: Annotated[
        str, typer.Option("--data", metavar="URL", help="Prepared data set, or performers:seed=1,people=5 (docs/training.md).")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run and, at its end, of the pipeline.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run was.")] = False,
    recipe: Annotated[Path | None, typer.Option("--recipe", metavar="FILE|NAME", help="Instead of the preset's own.")] = None,
    start: Annotated[
        Path | None, typer.Option("--start", metavar="DIR", help="Saved pipeline, for recipes that begin with published weights.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto or cpu.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that make samples. Default: as many as a GPU needs, else none."),
    ] = None,
    head_model: HeadModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Train the diffusion renderer by a recipe. With --resume the same command goes on to the bit where it was stopped."""
    from flows.training import StepLines, print_training, run_training

    settings = settings_of(config, None)
    told = run_training(
        str(preset),
        data,
        out,
        registry_of(settings),
        resume=resume,
        recipe_file=recipe,
        start=start,
        head_model=head_model,
        device=device,
        workers=workers,
        storage_options=settings.storage_options_of_data(data),
        tell=None if as_json else StepLines(error_console),
    )
    if told is not None:  # of several processes the first one speaks
        print_json(told) if as_json else print_training(told, out_console)
    return DONE


@command(performers_app, "render")
def performers_render(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Clips.")] = 4,
    frames: Annotated[int, typer.Option("--frames", min=2, help="Frames of each clip.")] = 75,
    size: Annotated[int, typer.Option("--size", help="Side of the pictures, pixels.")] = 512,
    rate: Annotated[int, typer.Option("--rate", help="Frames a second of the videos.")] = 25,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    swaps: Annotated[bool, typer.Option("--swaps", help="Also a second person's portrait and the true head swap.")] = False,
    stills: Annotated[bool, typer.Option("--stills", help="Also every picture as PNG.")] = False,
    workers: WorkersOption = None,
    head_model: HeadModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Synthetic people performing: videos, label maps, alpha and a table of truth. The same command again goes on."""
    from flows.performers import RenderOrder, render_performers

    order = RenderOrder(count, frames, size, rate, seed, swaps, stills)
    order.check()
    file = head_model or registry_of(settings_of(config, None)).require("ict")
    told = render_performers(file, out, order, workers=processes_of(workers), tell=tell_share("clip", as_json))
    if as_json:
        print_json(told)
    else:
        speed = f", {told['frames_per_second']} frames a second" if told["rendered"] else ""
        out_console.print(f"{counted(told['clips'], 'clip')} in {told['folder']}, {told['rendered']} rendered now{speed}")
    return DONE


@command(performers_app, "compare")
def performers_compare(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="retargeting, edits, masks or leakage.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for renders, numbers, tables and plots.")],
    pairs: Annotated[int | None, typer.Option("--pairs", help="Pairs of people, or clips. Default: as in the documents.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    workers: WorkersOption = None,
    head_model: HeadModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare methods with the truth of synthetic people. The same command again goes on where a stopped one was."""
    from flows.comparisons import Order, comparison, run_comparison

    count = pairs if pairs is not None else comparison(what).pairs
    file = head_model or registry_of(settings_of(config, None)).require("ict")
    order = Order(file, out, count, seed, processes_of(workers), tell_share("pair", as_json))
    told, outcome = run_comparison(what, order)
    if as_json:
        print_json(told)
    else:
        for table in outcome.tables:
            table.show(out_console)
        out_console.print(*told["files"], sep="\n")
    return DONE


@command(dataset_app, "prepare")
def dataset_prepare(
    catalogue: Annotated[str, typer.Argument(help="Clips and rights: CSV, JSON Lines or Parquet (docs/dataset.md).")],
    out: Annotated[str, typer.Option("--out", metavar="URL", help="Folder or URL that the shards go to.")],
    store_url: StoreOption = None,
    kind: Annotated[ShardFormatName, typer.Option("--format", help="Of the shards.")] = ShardFormatName.webdataset,
    size: Annotated[int | None, typer.Option("--size", help="Side of the crops, pixels. Default: 512.")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="NAME=VALUE", help="Any value of docs/dataset.md, e.g. validation=0.1. Repeatable."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also try again what failed for good before.")] = False,
    workers: WorkersOption = None,
    commercial: CommercialOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Clips to shards of training data. The same command again goes on where a stopped one was."""
    from flows.dataset import Place, prepare_dataset, print_dataset
    from schemas.dataset import dataset_parameters, read_clips

    settings = settings_of(config, assignments, store=store_url, workers=workers, commercial=commercial or None)
    chosen = dataset_parameters(parameters or [], size=size)
    clips = read_clips(catalogue, storage_options=settings.storage_options_of(catalogue))
    with open_store(settings) as store:
        told = prepare_dataset(
            clips,
            store,
            settings,
            Place.of(out, settings),
            kind=kind.value,
            parameters=chosen,
            registry=registry_of(settings),
            retry_failed=retry_failed,
            tell=lambda what, done, of: tell_share(what, as_json)(done, of),
            note=error_console.print,
        )
    if as_json:
        print_json(told)
    else:
        print_dataset(told, out, out_console)
    return FAILED if any("failure" in clip for clip in told["clips"]) else DONE


@command(face_model_app, "build")
def face_model_build(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The model's file (.npz).")],
    renders: Annotated[int, typer.Option("--renders", help="Pictures to measure on.")] = 20_000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    parts: Annotated[
        Path | None, typer.Option("--parts", metavar="DIR", help="Folder of the measurements. Default: beside the file.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="FILE", help="Model to compare with. Default: the built-in one.")
    ] = None,
    workers: WorkersOption = None,
    head_model: HeadModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Measure the built-in face model again on rendered people. The same command again goes on where a stopped one was."""
    from flows.face_model import build_face_model, print_report

    file = head_model or registry_of(settings_of(config, None)).require("ict")
    told = build_face_model(
        file,
        out,
        renders=renders,
        seed=seed,
        workers=processes_of(workers),
        parts=parts,
        against=against,
        tell=tell_share("part", as_json),
    )
    print_json(told) if as_json else print_report(told, out_console)
    return DONE


@command(app)
def gc(
    store_url: StoreOption = None,
    retention: Annotated[str, typer.Option("--retention", help="all, resume or results: which intermediates stay.")] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    minimum_age_hours: Annotated[float, typer.Option("--minimum-age-hours", min=0, help="Younger objects stay.")] = 24.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove what no manifest reaches (and, with --retention, intermediates that are not wanted any more)."""
    from flows.upkeep import collect_garbage, print_garbage

    with open_store(settings_of(config, None, store=store_url), existing=True) as store:
        document = collect_garbage(store, retention=retention, dry_run=dry_run, minimum_age_hours=minimum_age_hours)
    print_json(document) if as_json else print_garbage(document, out_console)
    return DONE


@command(app)
def fsck(
    store_url: StoreOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Have what is damaged computed again.")] = False,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Only these stages. Repeatable.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Hash everything again and compare with what was committed."""
    from flows.upkeep import check_store, print_check

    with open_store(settings_of(config, None, store=store_url), existing=True) as store:
        document = check_store(store, repair=repair, stages=stage)
    print_json(document) if as_json else print_check(document, out_console)
    return FAILED if document["damaged"] and not repair else DONE


@command(app)
def doctor(store_url: StoreOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Whether this machine, the store and the models are as they should be, and what to do where not."""
    from flows.doctor import check_up, print_checks

    settings = settings_of(config, None, store=store_url)
    checks = check_up(settings, registry_of(settings))
    print_json([vars(check) for check in checks]) if as_json else print_checks(checks, out_console)
    return FAILED if any(check.state == "failed" for check in checks) else DONE


def _terminate(number: int, frame: object) -> None:
    del number, frame
    raise Terminated


def main() -> None:
    signal.signal(signal.SIGTERM, _terminate)
    outlive_readers()
    app()


if __name__ == "__main__":
    main()
