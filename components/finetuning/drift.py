"""Tripwires: images that drift away from the base model's stop the run before it is lost.

Over-optimisation shows as pictures that grow brighter, more saturated or all alike while the reward
still rises, and as a held-out judge that disagrees. Each tripwire compares with what the base model
gave at the start and remembers the adapter that last passed, which is what a stopped run falls back
to.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from components.contracts.image_statistics import brightness, diversity, saturation
from components.finetuning.settings import DriftSettings


def drift_figures(images: UInt8[Tensor, "b 3 h w"], group: Int64[Tensor, " b"]) -> dict[str, float]:
    """Mean brightness and saturation in [0, 1]; diversity too where a group has two images."""
    figures = {
        "brightness": float(brightness(images).mean()),
        "saturation": float(saturation(images).mean()),
    }
    if int(torch.bincount(group).max()) > 1:
        figures["diversity"] = diversity(images, group)
    return figures


class Tripwire:
    """One source of images, watched: those of the training rounds, or those of the monitor."""

    def __init__(self, source: str, limits: DriftSettings) -> None:
        self.source = source
        self.limits = limits
        self.baseline: dict[str, float] = {}
        self.good: dict[str, Tensor] = {}
        """The adapter whose images passed last."""

    def check(self, figures: Mapping[str, float], adapter: Mapping[str, Tensor]) -> str | None:
        """Why the run must stop, or None: then `adapter`, which drew the images, is remembered as
        good.

        The first figures become the baseline: they are of images that the base model drew.
        """
        if not figures:
            return None
        self.baseline = self.baseline or dict(figures)
        reason = self._reason(figures)
        if reason is None:
            self.good = {name: tensor.clone() for name, tensor in adapter.items()}
        return reason

    def _reason(self, figures: Mapping[str, float]) -> str | None:
        limits, baseline = self.limits, self.baseline
        allowed = {
            name: (baseline[name] - shift, baseline[name] + shift)
            for name, shift in (
                ("brightness", limits.max_brightness_shift),
                ("saturation", limits.max_saturation_shift),
            )
        }
        if "diversity" in baseline:
            allowed["diversity"] = (limits.min_diversity_ratio * baseline["diversity"], 1.0)
        if "judge" in baseline:
            allowed["judge"] = (baseline["judge"] - limits.max_judge_drop, float("inf"))
        for name, (low, high) in allowed.items():
            # Written so that NaN trips too.
            if not low <= figures[name] <= high:
                return (
                    f"{name} of the {self.source} images is {figures[name]:.3f}, "
                    f"{baseline[name]:.3f} for the base model"
                )
        return None

    def state(self) -> dict[str, Tensor]:
        """Baseline and good adapter by name."""
        numbers = {
            f"baseline.{name}": torch.tensor(value, dtype=torch.float64)
            for name, value in self.baseline.items()
        }
        return numbers | {f"good.{name}": tensor for name, tensor in self.good.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.baseline = {name: float(value) for name, value in _under("baseline.", state).items()}
        self.good = _under("good.", state)


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
