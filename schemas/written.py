"""JSON and YAML that people write. Of two entries with one name the last would win in silence, so that is refused."""

from __future__ import annotations

import json
from typing import Any

import yaml


def read_json(text: str) -> Any:
    """``ValueError`` for what is none, or has a name twice in one object."""
    return json.loads(text, object_pairs_hook=_each_once)


def read_yaml(text: str) -> Any:
    """With YAML's safe loader.

    Raises:
        yaml.YAMLError: it is none, or has a name twice in one mapping; says where.
    """
    return yaml.load(text, _EachOnce)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(_twice(next(name for name in names if names.count(name) > 1)))
    return entries


class _EachOnce(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Looked at before merges ("<<") are written into the mappings, which may give them a name of their own again."""
        node = super().compose_mapping_node(anchor)
        names = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in names:
                    raise yaml.MarkedYAMLError(problem=_twice(key.value), problem_mark=key.start_mark)
                names.add((key.tag, key.value))
        return node


def _twice(name: str) -> str:
    return f"{name!r} is given twice"
