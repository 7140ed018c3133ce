"""What devices say when they cannot, and what schedulers are called that nobody takes."""

from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from schemas.problems import UsageError
from stages.networks.runtime import is_out_of_memory
from stages.networks.schedulers import make_scheduler, require_deterministic


def test_a_cpu_that_has_no_memory_left_says_so_as_gpus_do() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_a_scheduler_that_is_not_taken_is_called_by_its_own_name_alone() -> None:
    euler = EulerDiscreteScheduler.from_config(make_scheduler("dpm++").config)
    with pytest.raises(UsageError, match="The scheduler EulerDiscreteScheduler draws noise"):
        require_deterministic(euler)
