"""The document of results: one marked section for each part."""

from __future__ import annotations

import datetime
import platform
import re
from pathlib import Path

import psutil

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `make bench` (`python -m benchmarks [PART ...]`), which replaces the sections below.
Media: the example clips, repeated to length.
"""


def machine() -> str:
    """Processor, cores and memory, as far as the system tells."""
    model = platform.processor() or platform.machine()
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        model = found.group(1) if found else model
    except OSError:
        pass  # not Linux: the platform's word is all there is
    cores = len(psutil.Process().cpu_affinity() or []) or psutil.cpu_count() or 1
    memory = psutil.virtual_memory().total / 2**30
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"{model}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}, {today}"


def replace(part: str, text: str, path: Path = DOCUMENT) -> None:
    """Put a part's section into a document."""
    content = path.read_text() if path.exists() else HEAD
    section = f"<!-- {part} -->\n{text.strip()}\n\n*{machine()}*\n<!-- /{part} -->"
    pattern = re.compile(rf"<!-- {part} -->.*?<!-- /{part} -->", re.DOTALL)
    content = pattern.sub(lambda _: section, content) if pattern.search(content) else f"{content.rstrip()}\n\n{section}\n"
    path.write_text(content)


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
