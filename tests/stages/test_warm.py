"""Networks that stay loaded: each is lent to one at a time, and closed when something went wrong or the process ends."""

from __future__ import annotations

import pytest

from stages.warm import borrowed, close_idle


class _Network:
    made = 0

    def __init__(self, setting: int = 0) -> None:
        type(self).made += 1
        self.setting = setting
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kind() -> type[_Network]:
    return type("Fresh", (_Network,), {"made": 0})


def test_a_network_is_built_once_and_lent_again(kind: type[_Network]) -> None:
    with borrowed(kind, 3) as first:
        assert first.setting == 3
    with borrowed(kind, 3) as second:
        assert second is first
    with borrowed(kind, 4) as other:
        assert other is not first
    assert kind.made == 2
    assert not first.closed


def test_two_borrowers_at_once_get_two_networks_of_which_one_is_kept(kind: type[_Network]) -> None:
    with borrowed(kind) as first, borrowed(kind) as second:
        assert first is not second
    assert first.closed != second.closed


def test_a_network_that_was_in_use_when_something_failed_is_not_lent_again(kind: type[_Network]) -> None:
    with pytest.raises(RuntimeError, match="boom"), borrowed(kind) as broken:
        raise RuntimeError("boom")
    assert broken.closed
    with borrowed(kind) as fresh:
        assert fresh is not broken


def test_what_is_idle_can_be_closed(kind: type[_Network]) -> None:
    with borrowed(kind) as network:
        close_idle()
        assert not network.closed
    close_idle()
    assert network.closed
