"""The settings that every method shares: how a gradient becomes an update."""

from __future__ import annotations

from pydantic import Field

from components.contracts.settings import StrictModel


class OptimizerSettings(StrictModel):
    """AdamW at a constant rate, betas 0.9 and 0.999, eps 1e-8."""

    learning_rate: float = Field(default=1.0e-5, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=0.1, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
