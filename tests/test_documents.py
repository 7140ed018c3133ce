"""What the documents show is taken by the readers it is meant for, and their tables say what the code declares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import pipeline
from schemas.catalogue import read_catalogue
from schemas.configuration import load_settings
from schemas.dataset import DatasetParameters, read_clips
from schemas.edits import load_edits, parse_edits, read_edits
from stages.contract import Stage
from stages.networks.model_entries import declared_entries

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("csv", "json", "yaml")


def shown() -> Iterator[tuple[str, str, str]]:
    """Document, kind and text of every example that a program could read."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for kind, text in re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            yield path.name, kind, text


EXAMPLES = [pytest.param(*example, id=f"{example[0]}-{number}") for number, example in enumerate(shown()) if example[1] in KINDS]


@pytest.mark.parametrize(("document", "kind", "text"), EXAMPLES)
def test_examples_are_taken_by_their_reader(document: str, kind: str, text: str, tmp_path: Path) -> None:
    if document == "catalogue.md":
        path = tmp_path / f"jobs.{'jsonl' if kind == 'json' else kind}"
        path.write_text(text, encoding="utf-8")
        for job in read_catalogue(path):
            read_edits(load_edits(job.edits))
    elif (document, kind) == ("dataset.md", "csv"):
        path = tmp_path / "clips.csv"
        path.write_text(text, encoding="utf-8")
        assert read_clips(path)
    elif (document, kind) == ("edits.md", "json"):
        assert read_edits(json.loads(text)).to_options()
    elif (document, kind) == ("configuration.md", "yaml"):
        path = tmp_path / "night.yaml"
        path.write_text(text, encoding="utf-8")
        load_settings(file=path)
    elif (document, kind) == ("models.md", "yaml"):
        path = tmp_path / "models.yaml"
        path.write_text(text, encoding="utf-8")
        assert declared_entries(path)
    else:
        pytest.fail(f"Say in this test which reader takes the {kind} examples of {document}.")


def test_the_table_of_stages_says_what_they_declare() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([a-z ]+) \| (.*?) \| (.*?) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    assert [name for name, *_ in rows] == list(pipeline.STAGES)
    for name, scope, reads, writes in rows:
        stage = pipeline.stage(name)
        assert scope == stage.scope.replace("_", " "), name
        assert reads == _reads(stage), name
        tables = re.findall(r"`(\w+)`", next((part for part in writes.split("; ") if part.startswith("table")), ""))
        assert tables == [schema.name for schema in stage.tables], name


def _reads(stage: Stage) -> str:
    """``media of target; target: ingest, track; job: render (same)``; a stage of a clip reads of its own clip only."""
    of_clip = stage.scope.of_clip
    parts = [] if not stage.media else ["media" if of_clip else f"media of {', '.join(stage.media)}"]
    for owner in dict.fromkeys(needed.of for needed in stage.inputs):
        names = [
            needed.stage + ("" if needed.chunk == "all" else f" ({needed.chunk})")
            for needed in stage.inputs
            if needed.of == owner
        ]
        parts.append(("" if of_clip else f"{owner}: ") + ", ".join(names))
    return "; ".join(parts)


def test_the_table_of_a_data_set_s_parameters_says_what_they_are() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.*?) \|$", (ROOT / "docs/dataset.md").read_text(), re.MULTILINE)
    declared = [(name, str(one.default), one.description) for name, one in DatasetParameters.model_fields.items()]
    assert rows == declared


def test_what_a_message_suggests_as_edits_is_taken() -> None:
    with pytest.raises(ValueError, match="such as") as caught:
        parse_edits("[1]", "The edits")
    assert read_edits(json.loads(str(caught.value).partition("such as ")[2])).curves


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"):
        for address in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if "://" not in address:
                assert (document.parent / address).exists(), f"{document.name} links to {address}, which is not there"
