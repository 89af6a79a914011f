"""Rounds of whole groups: no update sees a part of the images of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from components.diffusion import Conditioning, Policy
from components.finetuning.algorithms.trajectory_settings import TrajectoryRoundSettings
from components.finetuning.batches import TrajectoryGroups
from components.finetuning.experience.drawing import Drawn, draw, reward_of
from components.finetuning.experience.on_policy import Baseline, RoundBaseline
from components.finetuning.interfaces import MethodContext, Round
from components.finetuning.losses.advantages import group_varies


class TrajectoryRounds:
    """Whole trajectories of whole groups; the policy draws them anew for each round."""

    def __init__(
        self,
        settings: TrajectoryRoundSettings,
        context: MethodContext,
        baseline: Baseline | None = None,
    ) -> None:
        """Put a method's round together.

        Args:
            settings: how many images and updates.
            context: of the method.
            baseline: what becomes of the rewards before they are regressed; None leaves them.
        """
        self.settings, self.context = settings, context
        self.baseline: Baseline = baseline or RoundBaseline("raw")
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[TrajectoryGroups]:
        """Draw a round and offer it `inner_epochs` times.

        Raises:
            QuarantinedData, GuardError: the rewards must not be trained on.
        """
        settings = self.settings
        places = self.context.prompts.draw(settings.prompts_per_round, generator)
        drawn = draw(self.context, policy, self.text, places, settings.group_size, generator)
        scored = reward_of(self.context, drawn)
        value = self.baseline.advantages(scored.reward, drawn).values
        varies = group_varies(value, drawn.group)
        metrics = {**scored.figures(), "dropped_groups": float((~varies).sum())}
        updates = self._updates(drawn, value, varies.nonzero().flatten(), generator)
        return Round(updates, len(value), metrics, drawn.drift())

    def _updates(
        self, drawn: Drawn, value: Tensor, groups: Tensor, generator: torch.Generator
    ) -> Iterator[list[TrajectoryGroups]]:
        for part in shuffled_parts(self.settings, groups, generator):
            yield [self._batch(drawn, value, images_of(part, self.settings.group_size))]

    def _batch(self, drawn: Drawn, value: Tensor, images: Tensor) -> TrajectoryGroups:
        # Everything stays on the CPU: the loss moves a part at a time.
        steps = torch.tensor(self.context.policy.sampler.stochastic_steps)
        _, group = drawn.group[images].unique(return_inverse=True)
        return TrajectoryGroups(
            latents=drawn.latents[images],
            steps=steps,
            conditioning=self.text[drawn.prompt[images]],
            log_prob_old=drawn.log_probs[images][:, steps],
            reward=value[images],
            group=group,
        )

    def state(self) -> dict[str, Tensor]:
        """What the baseline remembers."""
        return self.baseline.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.baseline.load_state(state)


def shuffled_parts(
    settings: TrajectoryRoundSettings, groups: Tensor, generator: torch.Generator
) -> Iterator[Tensor]:
    """The groups of each update: in every pass each group once, in an order of its own."""
    for _ in range(settings.inner_epochs):
        order = groups[torch.randperm(len(groups), generator=generator)]
        yield from (part for part in order.tensor_split(settings.updates_per_epoch) if len(part))


def images_of(groups: Tensor, group_size: int) -> Tensor:
    """All images of some groups of a round, side by side as they were drawn."""
    return (groups[:, None] * group_size + torch.arange(group_size)).flatten()
