"""The tables of docs/configuration.md, from the models: ``python -m schemas.reference <document>`` writes them anew."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from schemas.configuration import Leaf, Settings, leaves, shown, type_name

BEGIN = "<!-- settings: written by `python -m schemas.reference docs/configuration.md` -->"
END = "<!-- end of settings -->"


def settings_reference() -> str:
    """Markdown: one table a group, one row a setting, in the order of declaration."""
    groups: dict[str, list[Leaf]] = {}
    for leaf in leaves(Settings):
        groups.setdefault(leaf.name.rpartition(".")[0], []).append(leaf)
    return "\n".join(_table(group, members) for group, members in groups.items())


def _table(group: str, members: Sequence[Leaf]) -> str:
    lines = [f"### `{group}`" if group else "### General", "", "| name | type | default | meaning |", "|---|---|---|---|"]
    for leaf in members:
        kind = type_name(leaf.annotation) + (f", {leaf.bounds}" if leaf.bounds else "")
        default = "usable cores" if leaf.name == "workers" else f"`{shown(leaf.default)}`"
        lines.append(f"| `{leaf.name.rpartition('.')[2]}` | {kind} | {default} | {leaf.description} |")
    return "\n".join([*lines, ""])


def updated(document: str) -> str:
    """The document with the text between the two marks replaced; ``ValueError`` where it has no marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{settings_reference()}\n{END}{after}"


def main(arguments: Sequence[str]) -> None:
    for name in arguments:
        path = Path(name)
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
