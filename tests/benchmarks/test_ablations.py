"""What the ablations change and count, on windows painted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from benchmarks.ablations import (
    FIRST,
    HEAD,
    OF_BODY,
    RECIPE,
    WAYS,
    Mask,
    Pixels,
    Way,
    WaySamples,
    parts,
    summary,
    told,
    unseen,
    value_of,
    written,
    zones,
)
from stages.blocks import FOREGROUND_BLOCKS, block_grid, dilate, shape_agnostic_grid
from stages.condition_image import head_mask
from stages.segmentation import BACKGROUND, CLOTH, FACE, HAIR, NECK
from stages.training.augmentation import Draw, Window
from stages.training.performer_data import PerformerSamples
from stages.training.recipe_files import read_recipe
from tests.stages.training.painted_windows import SIZE, painted_window

WHITE = np.full((SIZE, SIZE, 3), 255, np.uint8)


def test_holes_are_blocks_or_follow_the_outline_closely() -> None:
    window = painted_window(1)
    person = window.labels[0] != BACKGROUND
    blocks, outline = (
        (Way(blocks=blocks).filled(window, 0).backgrounds[0] != window.backgrounds[0]).any(-1) for blocks in (True, False)
    )
    assert not (outline & ~dilate(person, 3)).any()
    assert (outline & person).sum() > 0.95 * person.sum()
    assert np.array_equal(block_grid(blocks, FOREGROUND_BLOCKS), shape_agnostic_grid(person))


def test_cloth_that_is_not_enhanced_is_all_cloth_but_for_its_border() -> None:
    window = painted_window(3)
    shoulders = window.shoulders[0]
    labels = window.labels[0]
    whole, kept = (Way(enhanced=enhanced).cloth(labels, shoulders, None) for enhanced in (False, True))
    assert kept.sum() < 0.6 * whole.sum()
    assert not (kept & ~whole).any()
    assert not (whole & (labels != CLOTH)).any()
    assert whole.sum() > 0.85 * (labels == CLOTH).sum()


def test_ways_without_a_part_leave_everything_else_as_it_is() -> None:
    plain = Way(scaled=False).augmentation
    assert (plain.smallest, plain.largest) == (1.0, 1.0)
    assert plain.long_hair == Way().augmentation.long_hair
    assert Way(enhanced=False).augmentation.long_hair == 0
    assert Way(enhanced=False).augmentation.smallest == Way().augmentation.smallest
    assert len(set(WAYS.values())) == len(WAYS)


def test_zones_are_where_only_one_of_two_pictures_shows_the_head() -> None:
    own, true = (np.full((8, 8), BACKGROUND, np.uint8) for _ in range(2))
    own[5:], true[5:] = CLOTH, CLOTH
    own[1:4, 2:6] = FACE
    true[1:4, 3:7] = FACE
    own[5, 2], true[5, 6] = HAIR, HAIR
    own[4, 3], true[4, 3] = NECK, NECK
    found = zones(own, true)
    places = {name: sorted({int(x) for x in np.nonzero(zone)[1]}) for name, zone in found.items()}
    assert list(places.values()) == [[2], [2], [6], [6]]
    assert [int(zone.sum()) for zone in found.values()] == [3, 1, 3, 1]


class Painted:
    """In place of ``PerformerSamples``: the first person's hair is short, the second's long."""

    people = (0, 1)

    def drawn(self, number: int, frames: int, head: int) -> tuple[Window, Pixels, Draw]:
        return painted_window(frames, long_hair=head == 1), np.full_like(WHITE, 255 - head), Draw(1.0, None)


def samples(way: Way) -> WaySamples:
    return WaySamples(cast(PerformerSamples, Painted()), way)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_swap_is_told_with_the_body_s_own_video_and_the_other_s_head(way: Way) -> None:
    unchanged, swap = samples(way).swap(1, 1), samples(way).swap(1, 0)
    np.testing.assert_array_equal(unchanged.sample.background, swap.sample.background)
    np.testing.assert_array_equal(unchanged.sample.target[0], unchanged.own)
    np.testing.assert_array_equal(unchanged.own, swap.own)
    assert swap.sample.reference[0, 0, 0] == 255
    assert {name: zone.any() for name, zone in unchanged.zones.items()} == dict.fromkeys(unchanged.zones, False)
    assert swap.zones["background that was head"].sum() > 200


def test_the_truth_is_right_everywhere_and_neither_the_own_picture_nor_a_leak_of_its_shape_is() -> None:
    for number, head in ((1, 0), (0, 1)):
        swap = samples(Way()).swap(number, head)
        counts = told(swap.sample.target[0], swap)
        assert all(right == of for right, of in counts.values())
        assert sum(of for _, of in counts.values()) > 200
        assert all(right == 0 for right, _ in told(swap.own, swap).values())
        leaked = np.where(head_mask_of(number)[..., None], swap.colours[0].astype(np.uint8), swap.sample.target[0])
        assert all(told(leaked, swap)[name][0] == 0 for name in OF_BODY)


def head_mask_of(person: int) -> Mask:
    return head_mask(Painted().drawn(0, 1, person)[0].labels[0])


def test_heads_are_put_on_bodies_and_in_rooms_in_which_they_were_never_seen() -> None:
    known, held_out = (
        PerformerSamples(Path("none.npz"), Path("none"), people=8, size=64, performances=5, split=split)
        for split in ("train", "held_out")
    )
    pairs = [(body, head) for body in range(8) for head in range(8) if unseen(held_out, body, head)]
    worn = [(body, head) for body in range(8) for head in range(8) if (body, head) not in pairs]
    assert len(pairs) > 24
    for chosen, expected in ((pairs, False), (worn, True)):
        for body, head in chosen:
            place = repr((held_out.dressed(body, held_out.performances[0], head), held_out.room(body, held_out.performances[0])))
            seen = [repr((known.dressed(head, one), known.room(head, one))) for one in known.trained_on]
            assert (place in seen) == expected


def test_differences_are_taken_on_the_same_swaps_over_bodies_and_what_is_empty_counts_nowhere() -> None:
    swap = samples(Way()).swap(1, 0)
    swaps = [replace(swap, body=body, head=head) for body, head in ((0, 1), (1, 0), (2, 3), (3, 2), (3, 1))]
    nothing = float("nan")
    columns = (HEAD, OF_BODY[0])
    rows = {name: {column: [10.0, 12.0, 11.0, 11.0, nothing] for column in columns} for name in WAYS}
    rows["the whole cloth shown"] = {columns[0]: [9.0, 11.0, 10.0, 10.0, 8.0], columns[1]: [nothing] * 5}
    table = summary(rows, swaps)
    found = {(row.name, row.than): row for row in table}
    last = found["the whole cloth shown", FIRST]
    value, change = last.values[HEAD], last.changes[HEAD]
    assert (value.mean, value.swaps, value.groups) == (9.6, 5, 4)
    assert (change.mean, change.low, change.high, change.swaps) == (-1.0, -1.0, -1.0, 4)
    assert np.isnan(last.values[OF_BODY[0]].mean)
    lines = written(table).splitlines()
    assert len(lines) == 2 + len(table) == 2 + len(WAYS) + 1
    assert lines[-1] == "| the whole cloth shown | 9.60 (-1.00: -1.00 to -1.00) | – |"
    assert lines[2].startswith("| as in the paper | 11.00 |")
    none = "nor blocks: holes along the outline"
    assert [than for name, than in found if name == none] == ["no common random scale", FIRST]
    assert lines[6].startswith(f"| {none} (compared with {FIRST}) | 11.00 (+0.00")


def test_intervals_are_not_given_over_a_few_people() -> None:
    few = value_of([1.0, 2.0, 3.0], [0, 0, 1])
    assert (few.mean, few.groups) == (2.0, 2)
    assert np.isnan(few.low)


def test_all_ways_share_the_autoencoder_and_train_the_rest_alike() -> None:
    shared, each = parts(read_recipe(RECIPE))
    assert [phase.kind for phase in shared.phases] == ["autoencoder"]
    assert {phase.kind for phase in each.phases} == {"diffusion"}
    assert (shared.start, each.start) == ("random", "published")
    assert parts(read_recipe(RECIPE), 1)[1].seed == each.seed + 1
    assert all(way.than[0] in WAYS and FIRST in way.than for way in WAYS.values())
