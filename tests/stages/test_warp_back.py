"""A turned head has a back, in the colours of its hair, and joins the neck."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from stages.renderer import Portrait
from stages.warp import topology
from stages.warp.back import BackOfHead
from stages.warp.geometry import Pose
from stages.warp.head import Head, compose
from stages.warp.neck import CLOTH, FACE, HAIR, NECK, neck_column, sideways
from tests.stages.painted_heads import BACKGROUND_LABEL, SIZE, SKIN, distance, portrait, pose, scene, shape
from tests.stages.painted_heads import HAIR as HAIR_COLOUR


def whole(back: BackOfHead, at: Pose) -> np.ndarray:
    """What is drawn, uint8 [SIZE, SIZE, 4]."""
    found = back.draw(at, (SIZE, SIZE))
    assert found is not None
    picture = np.zeros((SIZE, SIZE, 4), np.uint8)
    picture[found[0]] = found[1]
    return picture


def opacity_of(turn: float, nod: float = 0.0) -> np.ndarray:
    target = scene(at=pose(turn=turn, nod=nod))
    return Head(portrait()).draw(target.aligned, target.pose, target.picture, target.landmarks)[1]


@pytest.mark.parametrize("turn", [-35.0, 35.0])
def test_behind_the_ear_of_a_turned_head_there_is_hair(turn: float) -> None:
    at = pose(turn=turn)
    drawn = whole(BackOfHead(portrait()), at)
    # The middle of the back, some 100 mm behind the ears, as a little inside of where a head ends.
    x, y, _ = at.project(np.array([[0.0, 0.1, -2.3]]))[0]
    colour = drawn[round(y), round(x)]
    assert colour[3] == 255
    assert distance(colour[:3], HAIR_COLOUR) < 12
    assert opacity_of(turn)[round(y), round(x)] > 0.98


def test_a_head_is_longer_than_wide_and_no_longer_than_heads_are() -> None:
    widths = [np.flatnonzero((opacity_of(turn)[90:110] > 0.5).any(0)) for turn in (0.0, 40.0)]
    frontal, turned = (float(columns[-1] - columns[0]) for columns in widths)
    assert 1.02 * frontal < turned < 1.35 * frontal


def cropped(at: Pose | None = None) -> Portrait:
    """The painted head with hair that ends at the ears; as it is painted, it is a bob that ends at the nape."""
    source = portrait(at)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    height = source.pose.lift(np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3))[:, 1].reshape(SIZE, SIZE)
    gone = (source.labels == HAIR) & (height < -0.6)
    return replace(
        source,
        labels=np.where(gone, BACKGROUND_LABEL, source.labels).astype(np.uint8),
        matte=np.where(gone, 0, source.matte).astype(np.float32),
    )


def test_it_is_not_there_in_the_sources_own_pose_and_flat_with_a_raised_chin() -> None:
    back = BackOfHead(cropped())
    assert back.draw(pose(), (SIZE, SIZE)) is None
    raised, lowered = (pose(nod=nod) for nod in (-30, 30))
    assert raised.project(np.array([[0.0, -1.6, 0.2]]))[0, 1] < lowered.project(np.array([[0.0, -1.6, 0.2]]))[0, 1]  # the chin
    assert back.share(raised) == 0
    assert back.share(lowered) == 1


def test_it_comes_into_view_without_a_jump() -> None:
    back = BackOfHead(portrait())
    shares = [back.share(pose(turn=turn)) for turn in np.arange(0, 40, 0.5)]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert np.abs(np.diff(shares)).max() < 0.1


def test_a_bald_head_has_a_bald_back() -> None:
    source = portrait()
    bald = replace(source, labels=np.where(source.labels == HAIR, FACE, source.labels).astype(np.uint8))
    picture = source.colours.copy()
    crown, skin = (120, 200, 150), np.isin(source.labels, (HAIR, FACE))
    above = np.arange(SIZE)[:, None] < source.landmarks[topology.BROWS, 1].min() - 2
    picture[skin & above] = crown
    at = pose(turn=35)
    drawn = whole(BackOfHead(replace(bald, colours=picture)), at)
    x, y, _ = at.project(np.array([[0.0, 0.1, -2.3]]))[0]
    assert distance(drawn[round(y), round(x)][:3], crown) < 15


def test_a_portrait_from_the_side_gets_less_of_a_back_than_one_from_the_front() -> None:
    reach = []
    for turn in (0.0, 40.0):
        at = pose(turn=turn)
        drawn = whole(BackOfHead(portrait(at)), Pose(pose(turn=turn - 40).rotation, at.translation, at.scale))
        reach.append(np.flatnonzero(drawn[100, :, 3]).size / np.flatnonzero(portrait(at).matte[100] > 0.5).size)
    assert reach[1] < reach[0]


def test_a_tilted_head_is_not_turned() -> None:
    assert [sideways(pose(roll=roll, nod=-15).project(shape())) for roll in (-45, 0, 45)] == [0, 0, 0]


def test_a_raised_hand_behind_the_ear_is_no_neck() -> None:
    at = pose(turn=40)
    landmarks = at.project(shape())
    labels = np.zeros((SIZE, SIZE), np.uint8)
    x, y, _ = at.project(np.array([[0.0, -0.9, -1.2]]))[0]
    labels[round(y) : round(y + 2.0 * at.scale), round(x - 0.8 * at.scale) : round(x + 0.8 * at.scale)] = NECK
    alone = neck_column(labels, landmarks, at.scale)
    side = round(x + sideways(landmarks) * 1.3 * at.scale)
    labels[round(y - 2.0 * at.scale) : round(y + 0.5 * at.scale), side - 12 : side + 12] = NECK
    held = neck_column(labels, landmarks, at.scale)
    np.testing.assert_array_equal(alone[0], held[0])


def hanging(*sides: int, low: float = -1.75, high: float = 0.3, at: Pose | None = None) -> Portrait:
    """The painted head with hair beside its face from one height in model space down to another, left (-1) or right (1); on one
    side alone, or far below, beside cropped hair."""
    source = portrait(at) if len(sides) == 2 and high > 0 else cropped(at)
    labels, colours, matte = source.labels.copy(), source.colours.copy(), source.matte.copy()
    ears = source.pose.lift(np.asarray(source.landmarks[topology.EARS], np.float64))[:, 0]
    for side in sides:
        inner = side * np.abs(ears).max() + 0.03 * side
        corners = np.array(
            [[x, y, -1.0] for x, y in ((inner, high), (inner + 0.4 * side, high), (inner + 0.4 * side, low), (inner, low))]
        )
        mask = np.zeros(labels.shape, np.uint8)
        cv2.fillPoly(mask, [np.round(source.pose.project(corners)[:, :2]).astype(np.int32)], 1)
        labels[mask > 0], colours[mask > 0], matte[mask > 0] = HAIR, HAIR_COLOUR, 1.0
    return replace(source, labels=labels, colours=colours, matte=matte)


def curtain(low: float) -> Portrait:
    """The painted head with hair around a broad neck, from the ears down to a height in model space."""
    source = hanging(-1, 1, low=low)
    labels, colours, matte = source.labels.copy(), source.colours.copy(), source.matte.copy()
    y, x = np.arange(SIZE)[:, None], np.arange(SIZE)[None]
    top, bottom = (source.pose.project(np.array([[0.0, height, -1.0]]))[0, 1] for height in (-0.5, low))
    across = np.flatnonzero(labels[round(bottom) - 6] == HAIR)
    within = (y > top) & (y < bottom) & (x >= across[0]) & (x <= across[-1]) & (labels != FACE)
    neck = within & (y > source.landmarks[152, 1]) & (np.abs(x - source.landmarks[152, 0]) < 0.9 * source.pose.scale)
    for mask, label, colour in ((within & (labels != NECK) & ~neck, HAIR, HAIR_COLOUR), (neck, NECK, SKIN)):
        labels[mask], colours[mask], matte[mask] = label, colour, 1.0
    return replace(source, picture=colours, labels=labels, colours=colours, matte=matte)


def lowest(source: Portrait, turn: float) -> float:
    """Height in model space down to which the back of a turned head is there, behind the ears."""
    at = pose(turn=turn)
    heights = np.arange(0.0, -2.7, -0.05)
    places = at.project(np.stack([0 * heights, heights, np.full(len(heights), -1.0)], axis=1))
    drawn = whole(BackOfHead(source), at)
    there = [drawn[round(y), :, 3].max() > 128 for y in places[:, 1]]
    assert there[0]
    return float(heights[[*there, False].index(False) - 1])


@pytest.mark.parametrize("turn", [-35.0, 35.0])
def test_hair_that_hangs_on_both_sides_hangs_behind_and_a_braid_on_one_side_does_not(turn: float) -> None:
    short, braid, long = (lowest(source, turn) for source in (cropped(), hanging(1), hanging(-1, 1)))
    assert short == braid == pytest.approx(-0.9, abs=0.2)
    assert long == pytest.approx(-1.6, abs=0.2)


@pytest.mark.parametrize("turn", [-35.0, 35.0])
def test_cropped_hair_follows_the_skull_down_to_the_nape_and_longer_hair_does_not(turn: float) -> None:
    at = pose(turn=turn)
    widths = {}
    for name, source in (("cropped", cropped()), ("bob", portrait())):
        drawn = whole(BackOfHead(source), at)[..., 3] > 128
        rows = at.project(np.array([[0.0, -0.1, -1.0], [0.0, -0.75, -1.0]]))[:, 1].round().astype(int)
        widths[name] = [int(drawn[row].sum()) for row in rows]
    assert widths["cropped"][0] == pytest.approx(widths["bob"][0], abs=2)
    assert widths["cropped"][1] < widths["bob"][1] - 8


def test_patches_taken_for_hair_below_a_short_one_are_none_of_it() -> None:
    assert lowest(hanging(-1, 1, high=-1.9, low=-2.1), 35) == lowest(cropped(), 35)


@pytest.mark.parametrize("turn", [-35.0, 35.0])
def test_a_bob_that_ends_at_the_nape_ends_there_too_behind_and_not_in_a_veil(turn: float) -> None:
    bob = portrait()
    assert BackOfHead(bob).hangs
    at = pose(turn=turn)
    drawn = whole(BackOfHead(bob), at)[..., 3]
    end = lowest(bob, turn)
    assert end == pytest.approx(-1.15, abs=0.1)
    above, below = (round(at.project(np.array([[0.0, end + step, -1.0]]))[0, 1]) for step in (0.15, -0.15))
    assert drawn[above].max() > 240
    assert drawn[below].max() < 30


@pytest.mark.parametrize("roll", [-25.0, 25.0])
def test_hair_that_follows_a_tilted_head_hangs_behind_it_too(roll: float) -> None:
    assert not BackOfHead(cropped(pose(roll=roll))).hangs
    assert not BackOfHead(hanging(1, at=pose(roll=roll))).hangs
    assert BackOfHead(hanging(-1, 1, at=pose(roll=roll))).hangs


def hidden(source: Portrait, high: float, low: float) -> Portrait:
    """The portrait with ears, or earrings, before its hair between two heights in model space."""
    rows = slice(*(round(float(source.pose.project(np.array([[0.0, y, -1.0]]))[0, 1])) for y in (high, low)))
    labels = source.labels.copy()
    labels[rows][labels[rows] == HAIR] = FACE
    return replace(source, labels=labels)


@pytest.mark.parametrize("heights", [(0.2, -0.55), (-0.2, -0.3), (-1.0, -1.15)])
def test_hair_goes_on_behind_an_ear_and_an_earring(heights: tuple[float, float]) -> None:
    whole_hair = hanging(-1, 1, low=-2.5)
    assert lowest(hidden(whole_hair, *heights), 35) == pytest.approx(lowest(whole_hair, 35), abs=0.15)


def test_hair_that_is_longer_than_the_neck_goes_on_to_its_end_behind_the_body() -> None:
    source = hanging(-1, 1, low=-3.3)
    assert lowest(source, 35) < -2.3
    target = scene(at=pose(turn=35))
    cloth = cv2.erode((target.labels == CLOTH).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    everywhere = np.ones((SIZE, SIZE), np.float32)
    free, front = (
        Head(source).draw(target.aligned, target.pose, target.picture, target.landmarks, body)[1][cloth]
        for body in (None, everywhere)
    )
    assert (free > front + 0.5).any()  # of the back something would lie on the clothes
    composed = compose(Head(source), target, None)[1][cloth]
    assert np.abs(composed - front).max() < 0.02


def test_hanging_hair_is_behind_the_neck_and_the_nape_is_not() -> None:
    at = pose(turn=35)
    back, body = BackOfHead(hanging(-1, 1)), np.ones((SIZE, SIZE), np.float32)
    free, covered = np.zeros((2, SIZE, SIZE), np.uint8)
    for opacity, drawn in ((free, back.draw(at, (SIZE, SIZE))), (covered, back.draw(at, (SIZE, SIZE), body))):
        assert drawn is not None
        opacity[drawn[0]] = drawn[1][..., 3]
    crown, low = (round(float(at.project(np.array([[0.0, height, -1.0]]))[0, 1])) for height in (-0.3, -1.4))
    np.testing.assert_array_equal(free[:crown], covered[:crown])
    assert free[low].max() > 200
    assert covered[low].max() == 0


def test_it_comes_forth_from_behind_the_head_and_not_as_a_veil() -> None:
    source = hanging(-1, 1)
    reach = []
    for turn in np.arange(0.0, 20.0, 0.5):
        target = scene(at=pose(turn=float(turn)))
        opacity = Head(source).draw(target.aligned, target.pose, target.picture, target.landmarks)[1]
        rows = opacity[70:120]
        reach.append(float(rows.sum(1).mean()))
        # Half covered is only an edge, on either side.
        assert ((rows > 0.15) & (rows < 0.85)).sum(1).max() <= 6, turn
    assert np.abs(np.diff(reach)).max() < 2.5  # pixels, at half a degree


def test_the_gap_between_a_neck_and_the_hair_beside_it_is_always_hair() -> None:
    source = curtain(-2.6)
    assert BackOfHead(source).hangs
    place = np.array([[-0.7, -1.9, -0.6]])  # beside the target's neck, which is narrower
    shown = []
    for turn in (0.0, 3.0, 4.5, 5.0, 5.5, 6.0, 8.0):
        target = scene(at=pose(turn=turn))
        picture, opacity = compose(Head(source), target, None)
        wall = target.labels == BACKGROUND_LABEL
        x, y, _ = target.pose.project(place)[0].round().astype(int)
        assert wall[y, x]
        shown.append((float(opacity[y, x]), distance(picture[y, x], HAIR_COLOUR)))
    assert min(opacity for opacity, _ in shown) > 0.95
    assert max(away for _, away in shown) < 40


def test_hanging_hair_keeps_its_soft_border_in_the_sources_own_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    source = curtain(-2.6)
    source = replace(source, matte=cv2.GaussianBlur(source.matte, (0, 0), 5.0))
    target, head, bare = scene(), Head(source), Head(source)
    monkeypatch.setattr(bare._back, "draw", lambda *arguments: None)
    opacity, without = (compose(each, target, None)[1] for each in (head, bare))
    row = round(float(target.pose.project(np.array([[0.0, -1.9, -1.0]]))[0, 1]))
    outside = np.abs(np.arange(SIZE) - SIZE / 2) > 1.1 * target.pose.scale  # beyond the portrait's neck
    assert ((without[row] > 0.2) & (without[row] < 0.8))[outside].sum() >= 8
    assert np.abs(opacity[row] - without[row])[outside].max() < 0.1
    assert (opacity[row] - without[row])[~outside].max() > 0.5


def test_hair_that_hangs_behind_the_neck_covers_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = scene(at=pose(turn=35)), curtain(-2.6)
    head, bare = Head(source), Head(source)
    monkeypatch.setattr(bare._back, "draw", lambda *arguments: None)
    shown, without = (compose(each, target, None)[0].astype(float) for each in (head, bare))
    neck = cv2.erode((target.labels == NECK).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    changed = np.linalg.norm(shown - without, axis=2)
    assert neck.sum() > 1000
    assert changed[neck].max() < 60  # a little darker, beside more hair
    assert (changed[target.labels == BACKGROUND_LABEL] > 100).sum() > 300  # it is there, beside the neck


def test_where_the_chin_is_raised_it_becomes_flat_without_a_jump_or_a_veil() -> None:
    source = hanging(-1, 1)
    reach = []
    for nod in np.arange(0.0, -30.0, -1.0):
        at = pose(turn=35, nod=float(nod))
        top, bottom = at.project(np.array([[0.0, 0.4, -1.25], [0.0, -0.6, -1.25]]))[:, 1].round().astype(int)
        drawn = whole(BackOfHead(source), at)[top:bottom, :, 3]
        reach.append(float((drawn / 255).sum(1).mean()))
        assert ((drawn > 40) & (drawn < 215)).sum(1).max() <= 6, nod
    assert np.abs(np.diff(reach)).max() < 4  # pixels, at a degree
    assert reach[-1] < reach[0] - 8


def test_a_head_of_which_nothing_is_seen_has_no_back() -> None:
    nothing = BackOfHead(replace(portrait(), matte=np.zeros((SIZE, SIZE), np.float32)))
    assert nothing.draw(pose(turn=35), (SIZE, SIZE)) is None


def test_the_side_on_which_the_back_lies_is_told() -> None:
    found = [sideways(pose(turn=turn).project(shape())) for turn in (-40, -5, 0, 5, 40)]
    assert found[1:4] == [0, 0, 0]
    assert {found[0], found[4]} == {-1, 1}
    at = pose(turn=40)
    back, nose = (at.project(np.array([place]))[0, 0] for place in ([0.0, 0, -2.5], [0.0, -0.4, 0.5]))
    assert np.sign(back - nose) == found[4]


@pytest.mark.parametrize("turn", [-40.0, 40.0])
def test_the_neck_of_a_turned_head_goes_up_to_the_ear_on_the_side_of_its_back(turn: float) -> None:
    at = pose(turn=turn)
    landmarks = at.project(shape())
    labels = np.zeros((SIZE, SIZE), np.uint8)
    x, y, _ = at.project(np.array([[0.0, -0.9, -1.2]]))[0]  # where the neck joins the skull
    left, right = round(x - 0.8 * at.scale), round(x + 0.8 * at.scale)
    labels[round(y) : round(y + 2.0 * at.scale), left:right] = NECK
    column, start, end = neck_column(labels, landmarks, at.scale)
    assert start == pytest.approx(left, abs=3)
    assert end == pytest.approx(right, abs=3)
    ears = round(float(landmarks[[234, 454], 1].mean()))
    assert column[ears + 12, round(x)] > 0.9
    assert column[ears - 12].max() < 0.1


def test_no_background_shines_through_where_the_old_jaw_met_the_neck() -> None:
    target = scene()
    green = replace(target, background=np.full_like(target.background, (0, 255, 0)))
    shown, opacity = compose(Head(portrait()), green, None)
    neck = (target.labels == NECK) & (opacity < 0.01)
    inner = neck & np.roll(neck, 3, 1) & np.roll(neck, -3, 1)
    assert inner.sum() > 300
    skin = np.array(SKIN)
    shade = shown[inner] @ skin / (skin @ skin)
    assert np.abs(shown[inner] - shade[:, None] * skin).max() < 12
