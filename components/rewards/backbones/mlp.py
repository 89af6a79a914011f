"""The MLP heads that turn states of an encoder into a score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from components.contracts.artifacts import read_safetensors, write_safetensors
from components.contracts.errors import DataError, ModelError

HEAD = "head.safetensors"


class Mlp(nn.Sequential):
    """Linear layers down to one number, with an activation or without any."""

    def __init__(self, widths: Sequence[int], *, activation: bool) -> None:
        """Args:
        widths: of the input and of every hidden layer; the output has one.
        activation: a GELU between the layers. ImageReward has none: its five layers are a product
            of matrices, which is one linear map that is learnt as if it were deeper.
        """
        layers: list[nn.Module] = []
        for wide, narrow in pairwise([*widths, 1]):
            layers += [nn.GELU()] if activation and layers else []
            layers.append(nn.Linear(wide, narrow))
        super().__init__(*layers)
        self.widths = list(widths)

    def forward(self, states: Tensor) -> Tensor:
        """[b, d] to [b]."""
        for layer in self:
            states = layer(states)
        return states.squeeze(-1)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw the weights as ImageReward does: N(0, 1 / (inputs + 1)), no bias."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                std = (layer.in_features + 1) ** -0.5
                drawn = torch.randn(layer.weight.shape, generator=generator) * std
                layer.weight.copy_(drawn)
                layer.bias.zero_()

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply what comes out by a factor."""
        last = self[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(factor)
        last.bias.mul_(factor)

    def write(self, folder: Path) -> None:
        """Write the weights beside those of the backbone."""
        write_safetensors(folder / HEAD, self.state_dict())

    def fill(self, folder: Path) -> None:
        """Read what `write` wrote.

        Raises:
            ModelError: the file is missing, truncated or of other widths.
        """
        path = folder / HEAD
        try:
            self.load_state_dict(read_safetensors(path))
        except DataError as error:
            raise ModelError(f"has no usable head ({error})", file=folder) from None
        except RuntimeError:
            raise ModelError(
                "holds another head", file=path, allowed=f"widths {self.widths} as in reward.json"
            ) from None
