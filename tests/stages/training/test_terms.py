"""Trained weights are free for commercial use only where all that went into them is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.training.terms import LICENCE, Ingredient, forbids_commerce, of_data, of_pipeline, together


def test_what_forbids_or_is_inherited_decides_together() -> None:
    free, weights = Ingredient("the identity network", "MIT", True), Ingredient("first weights", "openrail", True, inherited=True)
    research = Ingredient("the identity network", "research only", False)
    assert together([]) == together([free]) == (LICENCE, True)
    assert together([weights, free]) == ("openrail", True)
    assert together([weights, research]) == ("openrail; research only", False)
    assert together([Ingredient("first weights", "Apache-2.0", True, inherited=True)]) == (LICENCE, True)


@pytest.mark.parametrize(
    ("card", "licence", "commercial"),
    [
        ("license: mit", "mit", True),
        ("license: mit\ncommercial: false", "mit", False),
        ("license: cc-by-nc-4.0", "cc-by-nc-4.0", False),
        ("license: in-house\ncommercial: true", "in-house", True),
        ("title: no licence", "unknown licence of the first weights", False),
        (None, "unknown licence of the first weights", False),
    ],
)
def test_first_weights_are_taken_at_their_card_s_word(tmp_path: Path, card: str | None, licence: str, commercial: bool) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(f"---\n{card}\n---\n# Weights\n")
    found = of_pipeline(tmp_path)
    assert (found.licence, found.commercial, found.inherited) == (licence, commercial, True)
    # What was said when they were registered stands over the card.
    (tmp_path / "registration.json").write_text(json.dumps({"licence": "signed", "commercial": True}))
    assert of_pipeline(tmp_path).licence == "signed"
    assert of_pipeline(tmp_path).commercial


@pytest.mark.parametrize(
    "rights",
    [
        "non-commercial",
        "CC BY-NC-SA 4.0",
        "research use only",
        "no commercial use",
        "only for research",
        "commercial use is not allowed",
        "Commercial use prohibited",
        "personal use only",
        "for evaluation purposes only",
        "CC-NC",
        "cc_by_nc_4.0",
        "research use",
    ],
)
def test_rights_that_forbid_commercial_use_are_seen(rights: str) -> None:
    assert forbids_commerce(rights)
    (found,) = of_data(["own likeness", rights])
    assert rights in found.licence
    assert not found.commercial


@pytest.mark.parametrize("rights", ["own likeness", "release 2026-014", "synthetic", "CC BY 4.0", "commercial use allowed"])
def test_other_rights_bind_nobody(rights: str) -> None:
    assert not of_data([rights])
