"""Waiting work: in order of priority, away from where it failed, and never left lying."""

from __future__ import annotations

import threading

from flows.lanes import STRIKES, Lanes


def test_the_most_urgent_comes_first_and_equals_in_their_order() -> None:
    lanes: Lanes[str] = Lanes(["a"])
    for name, priority in (("late", 2), ("first", 1), ("second", 1)):
        lanes.put(name, name, (priority,))
    assert [lanes.take("a") for _ in range(3)] == ["first", "second", "late"]


def test_what_failed_on_a_lane_goes_to_another() -> None:
    lanes: Lanes[str] = Lanes(["a", "b"])
    lanes.failed("task", "a")
    lanes.put("task", "task", (0,))
    lanes.put("other", "other", (1,))
    assert lanes.take("a") == "other"
    assert lanes.take("b") == "task"


def test_what_failed_everywhere_is_tried_anywhere() -> None:
    lanes: Lanes[str] = Lanes(["a", "b"])
    for lane in ("a", "b"):
        lanes.failed("task", lane)
    lanes.put("task", "task")
    assert lanes.take("a") == "task"


def test_a_lane_that_fails_again_and_again_is_closed_but_never_the_last() -> None:
    lanes: Lanes[str] = Lanes(["a", "b"])
    for number in range(STRIKES):
        lanes.failed(number, "a")
    assert lanes.open_lanes == ("b",)
    assert lanes.take("a") is None
    for number in range(2 * STRIKES):
        lanes.failed(number, "b")
    assert lanes.open_lanes == ("b",)
    lanes.put(0, "task")
    assert lanes.take("b") == "task"


def test_success_forgives_strikes() -> None:
    lanes: Lanes[str] = Lanes(["a", "b"])
    for number in range(2 * STRIKES):
        lanes.failed(number, "a")
        lanes.succeeded(number, "a")
    assert lanes.open_lanes == ("a", "b")


def test_a_lane_waits_for_work_and_ends_when_all_is_closed() -> None:
    lanes: Lanes[str] = Lanes(["a"])
    taken: list[str | None] = []

    def serve() -> None:
        while (task := lanes.take("a")) is not None:
            taken.append(task)

    thread = threading.Thread(target=serve)
    thread.start()
    lanes.put("task", "task")
    while not taken:
        pass
    assert lanes.close() == []
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert taken == ["task"]


def test_closing_gives_back_what_still_waits() -> None:
    lanes: Lanes[str] = Lanes(["a"])
    lanes.put(1, "one")
    assert lanes.close() == ["one"]
    assert lanes.take("a") is None
