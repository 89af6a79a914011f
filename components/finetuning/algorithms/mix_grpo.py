"""MixGRPO: Flow-GRPO inside a window of steps that slides from noise to picture, the ODE elsewhere.

Paper: Li et al., "MixGRPO: Unlocking Flow-based GRPO Efficiency with Mixed ODE-SDE",
arXiv 2507.21802, read in its released code.

    sampling     the SDE at the `window_size` steps of the window, the ODE at all others: only the
                 window's steps have a density, and only they are trained on
    window       starts at the noisiest step and moves on by `stride` every `rounds_per_window`
                 rounds; behind its last place it starts again (`roll_back`) or stays there
    loss         that of flow_grpo.py, without KL

With a window of all stochastic steps it is Flow-GRPO.

Left out: other orders of the window (random; stays that grow shorter); the faster variants
("Flash"), which take fewer ODE steps behind the window with a solver of higher order; several
rewards at once.

Deviations: the window keeps its size and reaches the last stochastic step; in the code it shrinks
at the end, down to nothing to train on, and never reaches that step. The standard deviation of a
group is the population's, with 1e-6 added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.flow_grpo import FlowGRPO
from components.finetuning.algorithms.on_policy import GroupSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    from components.diffusion import Sampler
    from components.finetuning.interfaces import Method, MethodContext


class MixGRPOSettings(GroupSettings):
    """Settings of MixGRPO; the defaults are the released ones for FLUX, on 32 devices."""

    name: Literal["mix_grpo"] = "mix_grpo"
    learning_rate: float = Field(default=1.0e-5, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=32, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    updates_per_epoch: int = Field(default=4, ge=1)
    """Optimizer steps of a pass over the round: 12 images in threes."""
    shared_noise: bool = True
    """Whether all images of a prompt start from the same noise."""
    clip_range: float = Field(default=1.0e-4, gt=0.0, lt=1.0)
    """Band of the ratio of log-probabilities that are means over the latent's dimensions."""
    window_size: int = Field(default=4, ge=1)
    """Steps with noise, which are those that are trained on."""
    stride: int = Field(default=1, ge=1)
    """Steps by which the window moves on."""
    rounds_per_window: int = Field(default=25, ge=1)
    """Rounds at one place."""
    roll_back: bool = True
    """Whether the window starts again behind its last place; else it stays there."""

    def requires(self) -> Requirements:
        """A flow with room for the window before the last step, which is never noisy."""
        return Requirements(likelihood=True, families=("flow",), min_steps=self.window_size + 1)

    def build(self, context: MethodContext) -> Method:
        """Flow-GRPO's loss, and rounds drawn with the window's sampler."""
        from components.finetuning.experience.on_policy import OnPolicy, group_pieces
        from components.finetuning.interfaces import Method

        sampler = context.policy.sampler

        def sampler_of_round(number: int) -> Sampler:
            return sampler.noisy_only_at(self.window(sampler.stochastic_steps, number))

        pieces = group_pieces(self, context)
        experience = OnPolicy(self, context, **pieces, sampler=sampler_of_round)
        return Method(FlowGRPO(self.clip_range), experience)

    def window(self, steps: Sequence[int], number: int) -> tuple[int, ...]:
        """The steps of the window in a round.

        Args:
            steps: those that can be noisy, noisiest first.
            number: of the round, from 0.

        Worked: steps 0 to 4, size 2, stride 2, 1 round: (0, 1), (2, 3), then (3, 4), where the
        window ends with the steps, and (0, 1) again; without `roll_back`, (3, 4) for ever.
        """
        last = max(0, len(steps) - self.window_size)
        place = number // self.rounds_per_window
        if self.roll_back:
            place %= -(-last // self.stride) + 1
        start = min(place * self.stride, last)
        return tuple(steps[start : start + self.window_size])
