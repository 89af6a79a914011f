"""A tiny base on disk and policies opened from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import Policy, load_policy
from tests.support.tiny import tiny_base

COMPUTE = ComputeSettings(device="cpu", threads=1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def open_policy(base: Path) -> Callable[..., Policy]:
    """Open the tiny base; keywords replace those of the settings, `lora` names a saved adapter."""

    def open_it(lora: Path | None = None, **settings: Any) -> Policy:
        defaults = {"path": str(base), "num_steps": 4, "batch_size": 4}
        return load_policy(BaseSettings(**(defaults | settings)), COMPUTE, lora=lora)

    return open_it


@pytest.fixture
def adapted(open_policy: Callable[..., Policy]) -> Policy:
    """A policy whose adapter has moved away from its start."""
    return train_a_little(open_policy())


def train_a_little(policy: Policy) -> Policy:
    """Give the policy an adapter with random numbers in B, as if it had learned something."""
    generator = torch.Generator().manual_seed(3)
    policy.add_adapter(4, 16, generator=generator)
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy
