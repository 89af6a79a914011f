"""Everything that the future of a run depends on, in one place, so that a checkpoint cannot forget
a part.

Randomness is no part of it: every generator is derived from the seed and the number of the round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from components.diffusion import Policy
from components.finetuning.curves import Row
from components.finetuning.drift import Tripwire
from components.finetuning.interfaces import Method


@dataclass
class History:
    """What has happened so far: counters and the rows of the curves."""

    rounds: int = 0
    """Finished rounds."""
    updates: int = 0
    """Optimizer steps."""
    images: int = 0
    """Images drawn for training."""
    stopped_by: str | None = None
    """Why a tripwire ended the run before its last round."""
    rows: list[Row] = field(default_factory=list)
    looks: list[Row] = field(default_factory=list)
    """What the monitor saw, with the round at whose start it looked."""


@dataclass
class RunState:
    """A run between two rounds."""

    policy: Policy
    method: Method
    optimizer: torch.optim.Optimizer
    round_tripwire: Tripwire
    monitor_tripwire: Tripwire
    history: History = field(default_factory=History)

    def adapter(self) -> dict[str, Tensor]:
        """The trained LoRA's weights by name, detached but not copied."""
        return {name: parameter.detach() for name, parameter in self.policy.trainable_parameters()}

    def load_adapter(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the LoRA's weights."""
        with torch.no_grad():
            for name, parameter in self.policy.trainable_parameters():
                parameter.copy_(tensors[name])

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the run, under one name each."""
        parts = {
            "adapter": self.adapter(),
            "optimizer": optimizer_tensors(self.optimizer),
            "experience": self.method.experience.state(),
            "snapshots": self.policy.snapshots(),
            "round_tripwire": self.round_tripwire.state(),
            "monitor_tripwire": self.monitor_tripwire.state(),
        }
        return {
            f"{part}/{name}": tensor
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }

    def facts(self) -> dict[str, Any]:
        """Everything that is no tensor, as json can hold it without loss."""
        return asdict(self.history)

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Become the run that `tensors` and `facts` were taken from."""
        parts: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            part, _, name = path.partition("/")
            parts.setdefault(part, {})[name] = tensor
        self.load_adapter(parts["adapter"])
        load_optimizer_tensors(self.optimizer, parts.get("optimizer", {}))
        self.policy.load_snapshots(parts.get("snapshots", {}))
        self.method.experience.load_state(parts.get("experience", {}))
        self.round_tripwire.load_state(parts.get("round_tripwire", {}))
        self.monitor_tripwire.load_state(parts.get("monitor_tripwire", {}))
        self.history = History(**facts)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts of an optimizer, by parameter number and name."""
    return {
        f"{number}.{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put moments and step counts back; the hyper-parameters stay those of the settings."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        number, _, name = path.partition(".")
        state.setdefault(int(number), {})[name] = value.clone()
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
