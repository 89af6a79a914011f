"""What every method's settings share: how a gradient becomes an update, and what is needed."""

from __future__ import annotations

from pydantic import Field

from components.contracts.settings import StrictModel
from components.finetuning.requirements import Requirements


class OptimizerSettings(StrictModel):
    """AdamW, betas 0.9 and 0.999, eps 1e-8, at a constant rate after the warm-up."""

    learning_rate: float = Field(default=1.0e-5, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=0.1, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    warmup_updates: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises linearly to its value."""

    @property
    def reads_preferences(self) -> bool:
        """Whether the method reads `data/preferences`, which the run is then tied to."""
        return False

    def requires(self) -> Requirements:
        """What the method cannot do without, as it is set: checked when settings load."""
        return Requirements()
