"""The device that the settings mean: policy and reward model must never read `auto` differently."""

from __future__ import annotations

import torch

from components.contracts.settings import ComputeSettings


def find_device(compute: ComputeSettings) -> torch.device:
    """`auto` takes an accelerator where there is one."""
    if compute.device != "auto":
        return torch.device(compute.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
