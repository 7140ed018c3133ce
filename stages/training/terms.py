"""Under which terms trained weights may be used: whatever their ingredients allow, first weights, identity network and data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.networks.importing import CARD, PERMISSIVE, front_matter
from stages.networks.registered import RECORD

LICENCE = "apache-2.0"
"""Of weights whose ingredients ask for nothing."""

_NON_COMMERCIAL = re.compile(
    r"\bnon[-_\s]?commercial|(?<![a-z])(BY|CC)[-_\s]NC(?![a-z])"
    r"|\b(research|academic|personal|private|evaluation|educational|internal)\b.*\bonly\b"
    r"|\bonly\b.*\b(research|academic|personal|private|evaluation|educational|internal)\b"
    r"|\b(research|academic|personal|private|evaluation|educational|internal)\s+(use|purposes?)\b"
    r"|\b(no|not|without|never)\b[^.;,]{0,20}\bcommercial"
    r"|\bcommercial\b[^.;,]{0,30}\b(not|never|no|prohibited|forbidden|excluded|disallowed)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Ingredient:
    """Something that went into trained weights.

    Attributes:
        what: in words: "the first weights (studio)".
        licence: in words.
        commercial: whether it allows commercial use.
        inherited: whether its licence is that of the result too, as that of first weights is; others' counts where it forbids.
    """

    what: str
    licence: str
    commercial: bool
    inherited: bool = False


def together(ingredients: Sequence[Ingredient]) -> tuple[str, bool]:
    """Licence of what was made of them, in words, and whether it allows commercial use: only where all of them do."""
    binding = [one.licence for one in ingredients if one.inherited or not one.commercial]
    return "; ".join(dict.fromkeys(one for one in binding if one.lower() != LICENCE)) or LICENCE, all(
        one.commercial for one in ingredients
    )


def forbids_commerce(rights: str) -> bool:
    """Whether words about rights say that there is no commercial use ("research only", "CC BY-NC 4.0", "non-commercial")."""
    return _NON_COMMERCIAL.search(rights) is not None


def of_data(rights: Iterable[str]) -> list[Ingredient]:
    """What a data set contributes whose clips may be used on these grounds: nothing, unless some say non-commercial."""
    forbidding = sorted({ground for ground in rights if forbids_commerce(ground)})
    if not forbidding:
        return []
    listed = ", ".join(forbidding[:5]) + (f" and {len(forbidding) - 5} more" if len(forbidding) > 5 else "")
    return [Ingredient("the training data", f"rights of the training data: {listed}", False)]


def of_pipeline(folder: Path) -> Ingredient:
    """The terms of a saved pipeline: of its registration, else of its model card, else unknown and hence not commercial."""
    what = f"the first weights ({folder.resolve().name})"
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Ingredient(what, str(record["licence"]), record["commercial"] is True, inherited=True)
    except (OSError, ValueError, KeyError, TypeError):
        card = front_matter(folder / CARD)
    stated = card.get("license") or ""
    licence = (", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)).strip()
    if not licence:
        return Ingredient(what, "unknown licence of the first weights", False, inherited=True)
    return Ingredient(what, licence, card.get("commercial", licence.lower() in PERMISSIVE) is True, inherited=True)
