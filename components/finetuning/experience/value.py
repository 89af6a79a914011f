"""DPOK's critic: the terminal reward predicted from a noisy latent, its prompt, and its step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from components.diffusion import Conditioning, Policy
from components.finetuning.experience.buffer import StoredTransitions, TransitionBuffer
from components.finetuning.guards import check_finite
from components.finetuning.state import load_optimizer_tensors, optimizer_tensors

if TYPE_CHECKING:
    from components.finetuning.algorithms.dpok import ValueSettings

NUM_HIDDEN = 3


class ValueNetwork(nn.Module):
    """Three hidden layers `ReLU(γ_i ⊙ (W h + b))`, then a linear one; γ_i is learned for each step
    i.

    As DPOK's released code. The gains start at one, so that it starts as a plain network.
    """

    def __init__(
        self, num_inputs: int, hidden_size: int, num_steps: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        sizes = [num_inputs, *[hidden_size] * NUM_HIDDEN]
        self.layers = nn.ModuleList(
            _linear(before, after, generator) for before, after in pairwise(sizes)
        )
        self.gains = nn.Parameter(torch.ones(NUM_HIDDEN, num_steps, hidden_size))
        self.head = _linear(hidden_size, 1, generator)

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        text: Float[Tensor, "b d"],
        step: Int64[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Predicted reward of each row."""
        hidden = torch.cat([x_t.flatten(start_dim=1), text], dim=1)
        for layer, gain in zip(self.layers, self.gains, strict=True):
            hidden = (gain[step] * layer(hidden)).relu()
        value: Tensor = self.head(hidden)
        return value.squeeze(1)


class Critic:
    """The value network with its optimizer: one step a round."""

    def __init__(
        self,
        settings: ValueSettings,
        policy: Policy,
        text: Conditioning,
        generator: torch.Generator,
    ) -> None:
        self.settings = settings
        # One vector a prompt: the mean of its text states stands in for CLIP's pooled feature.
        self.text: Tensor = text.states.mean(dim=1)[text.prompt_of_row]
        num_latent = int(torch.tensor(policy.latent_shape).prod())
        self.network = ValueNetwork(
            num_latent + self.text.shape[1],
            settings.hidden_size,
            policy.sampler.num_steps,
            generator,
        ).to(policy.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=0.0
        )

    @torch.no_grad()
    def values(self, stored: StoredTransitions) -> Float[Tensor, " n"]:
        """Predicted reward of each transition, detached: V of the advantage r - V."""
        return self._predict(stored)

    def update(self, buffer: TransitionBuffer, generator: torch.Generator) -> float:
        """One optimizer step on the mean squared error to the terminal reward, which is returned.

        Raises:
            GuardError: the error or its gradient is not finite.
        """
        settings = self.settings
        drawn = buffer.draw(settings.num_batches * settings.batch_size, generator)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for rows in torch.arange(len(drawn)).split(settings.batch_size):
            batch = drawn[rows]
            error = self._predict(batch) - batch.reward.to(self.text.device)
            loss = error.square().sum() / len(drawn)
            loss.backward()
            total += float(loss.detach())
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        check_finite(total, float(torch.nn.utils.get_total_norm(gradients)), "critic")
        self.optimizer.step()
        return total

    def _predict(self, stored: StoredTransitions) -> Float[Tensor, " n"]:
        device = self.text.device
        value: Tensor = self.network(
            stored.x_t.to(device), self.text[stored.prompt.to(device)], stored.step.to(device)
        )
        return value

    def state(self) -> dict[str, Tensor]:
        """Weights and optimizer."""
        weights = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        moments = {
            f"optimizer.{name}": tensor
            for name, tensor in optimizer_tensors(self.optimizer).items()
        }
        return weights | moments

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}}
        for path, tensor in state.items():
            part, _, name = path.partition(".")
            parts[part][name] = tensor
        self.network.load_state_dict(parts["network"])
        load_optimizer_tensors(self.optimizer, parts["optimizer"])


def _linear(num_inputs: int, num_outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer whose weights come from `generator`: torch's own would use the global one."""
    layer: nn.Linear = torch.nn.utils.skip_init(nn.Linear, num_inputs, num_outputs)
    bound = num_inputs**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
