"""Online rollouts: each round draws images, scores them, and trains on the newest transitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.diffusion import Conditioning, Policy
from components.finetuning.batches import Transitions
from components.finetuning.experience.buffer import StoredTransitions, TransitionBuffer
from components.finetuning.experience.drawing import Drawn, draw, reward_of
from components.finetuning.experience.value import Critic
from components.finetuning.interfaces import MethodContext, Round
from components.finetuning.losses.advantages import advantages

if TYPE_CHECKING:
    from components.finetuning.algorithms.dpok import DPOKSettings


class OnlineRollouts:
    """DPOK's loop up to the loss: rollouts, FIFO, one step of the critic, batches."""

    def __init__(self, settings: DPOKSettings, context: MethodContext) -> None:
        self.settings = settings
        self.context = context
        self.buffer = TransitionBuffer(settings.buffer_size)
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        self.critic = (
            Critic(settings.value_function, context.policy, self.text, context.generator("value"))
            if settings.value_function
            else None
        )

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[Transitions]:
        """Draw one round of images, remember their transitions, and offer batches of what is
        remembered.

        Raises:
            QuarantinedData, GuardError: the scorer's rewards must not be trained on.
        """
        settings = self.settings
        places = self.context.prompts.draw(settings.prompts_per_round, generator)
        drawn = draw(self.context, policy, self.text, places, settings.group_size, generator)
        scored = reward_of(self.context, drawn)
        reward = scored.reward
        found = advantages(reward, drawn.group, settings.advantage)
        self._remember(drawn, reward, found.values, found.kept)
        metrics = {
            **scored.figures(),
            "dropped_groups": float(found.num_dropped_groups),
        }
        if self.critic and len(self.buffer):
            metrics["value_loss"] = self.critic.update(self.buffer, generator)
        return Round(self._updates(generator), len(reward), metrics, drawn.drift())

    def _remember(self, drawn: Drawn, reward: Tensor, advantage: Tensor, kept: Tensor) -> None:
        # Samples of dropped groups are left out, then [n, steps] is laid out as one row a
        # transition.
        steps = torch.tensor(self.context.policy.sampler.stochastic_steps)
        latents, log_probs = drawn.latents[kept], drawn.log_probs[kept]
        self.buffer.push(
            StoredTransitions(
                x_t=latents[:, steps].flatten(0, 1),
                x_prev=latents[:, steps + 1].flatten(0, 1),
                step=steps.repeat(len(latents)),
                prompt=drawn.prompt[kept].repeat_interleave(len(steps)),
                log_prob_old=log_probs[:, steps].flatten(),
                reward=reward[kept].repeat_interleave(len(steps)),
                advantage=advantage[kept].repeat_interleave(len(steps)),
            )
        )

    def _updates(self, generator: torch.Generator) -> Iterator[list[Transitions]]:
        settings = self.settings
        size = self.context.batch_size
        for _ in range(settings.updates_per_round if len(self.buffer) else 0):
            drawn = self.buffer.draw(settings.transitions_per_update, generator)
            yield [self._batch(drawn[rows]) for rows in torch.arange(len(drawn)).split(size)]

    def _batch(self, stored: StoredTransitions) -> Transitions:
        advantage = stored.advantage
        if self.critic:
            advantage = stored.reward - self.critic.values(stored)
        device = self.context.policy.device
        return Transitions(
            x_t=stored.x_t.to(device),
            x_prev=stored.x_prev.to(device),
            step=stored.step.to(device),
            conditioning=self.text[stored.prompt],
            log_prob_old=stored.log_prob_old.to(device),
            advantage=advantage.to(device),
        )

    def state(self) -> dict[str, Tensor]:
        """The FIFO, and the critic with its optimizer."""
        critic = self.critic.state() if self.critic else {}
        return {
            **{f"buffer.{name}": column for name, column in self.buffer.state().items()},
            **{f"critic.{name}": tensor for name, tensor in critic.items()},
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        parts: dict[str, dict[str, Tensor]] = {"buffer": {}, "critic": {}}
        for path, tensor in state.items():
            part, _, name = path.partition(".")
            parts[part][name] = tensor
        self.buffer.load_state(parts["buffer"])
        if self.critic:
            self.critic.load_state(parts["critic"])
