"""HERO's encoder: latents to a space in which the images that people like lie together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from components.finetuning.guards import check_finite
from components.finetuning.losses.representation import triplet_margin_loss
from components.finetuning.state import load_optimizer_tensors, optimizer_tensors

if TYPE_CHECKING:
    from components.finetuning.algorithms.hero import RepresentationSettings

NUM_CONVOLUTIONS = 3


class Encoder(nn.Module):
    """f: three 3x3 convolutions that each double the channels and, as long as there is something
    to halve, halve the sides; then one linear layer. ReLU after each.

    On SD's latents of 4 x 64 x 64 this is the released network: 32 x 8 x 8 = 2048 numbers before
    the linear layer.
    """

    def __init__(
        self, latent_shape: tuple[int, int, int], size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels, height, width = latent_shape
        layers: list[nn.Module] = []
        for _ in range(NUM_CONVOLUTIONS):
            convolution = torch.nn.utils.skip_init(
                nn.Conv2d, channels, 2 * channels, kernel_size=3, padding=1
            )
            layers += [_started(convolution, generator), nn.ReLU()]
            channels *= 2
            if min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        linear = torch.nn.utils.skip_init(nn.Linear, channels * height * width, size)
        layers += [nn.Flatten(), _started(linear, generator), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Encodings, none of their numbers negative."""
        encoding: Tensor = self.layers(latents)
        return encoding


class Head(nn.Module):
    """g: the projection that the loss sees and the reward does not; ReLU between its layers."""

    def __init__(self, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            linear = torch.nn.utils.skip_init(nn.Linear, before, after)
            layers += [_started(linear, generator), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, encoding: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        """Projections."""
        projection: Tensor = self.layers(encoding)
        return projection


class Labelled(NamedTuple):
    """The images of a round, and the best image of each of its prompts."""

    x0: Float[Tensor, "n c h w"]
    prompt: Int64[Tensor, " n"]
    """Row of `best_x0`."""
    good: Bool[Tensor, " n"]
    """But for the best image, which is the anchor."""
    bad: Bool[Tensor, " n"]
    best_x0: Float[Tensor, "u c h w"]
    """Of each prompt; may be of an earlier round."""
    known: Bool[Tensor, " u"]
    """Prompts that have a best image."""


class Triplets(NamedTuple):
    """Prompts (their best image is the anchor), good images, bad images: rows, t of each."""

    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]


def draw_triplets(labelled: Labelled, generator: torch.Generator) -> Triplets:
    """For each image one triplet of its prompt: the best, a random good and a random bad one.

    Prompts without a good image beside the best, without a bad one, or without a best one have
    none. Of one prompt this is the paper's batch of as many triplets as there are images.
    """
    anchors, positives, negatives = [], [], []
    for row in labelled.known.nonzero().flatten().tolist():
        of_prompt = labelled.prompt == row
        good = (of_prompt & labelled.good).nonzero().flatten()
        bad = (of_prompt & labelled.bad).nonzero().flatten()
        if len(good) and len(bad):
            count = int(of_prompt.sum())
            anchors.append(torch.full((count,), row))
            positives.append(good[torch.randint(len(good), (count,), generator=generator)])
            negatives.append(bad[torch.randint(len(bad), (count,), generator=generator)])
    if not anchors:
        none = torch.zeros(0, dtype=torch.long)
        return Triplets(none, none, none)
    return Triplets(torch.cat(anchors), torch.cat(positives), torch.cat(negatives))


class Representation:
    """Encoder, head, and the Adam that trains both; they go on from round to round."""

    def __init__(
        self,
        settings: RepresentationSettings,
        latent_shape: tuple[int, int, int],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.device = settings, device
        size = settings.encoder_size
        self.networks = nn.ModuleDict(
            {
                "encoder": Encoder(latent_shape, size, generator),
                "head": Head((size, *settings.head_sizes), generator),
            }
        ).to(device)
        self.optimizer = torch.optim.Adam(self.networks.parameters(), lr=settings.learning_rate)

    @torch.no_grad()
    def encode(self, x0: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """f of each latent, on the CPU."""
        encoding: Tensor = self.networks["encoder"](x0.to(self.device)).cpu()
        return encoding

    def train(self, labelled: Labelled, generator: torch.Generator) -> float | None:
        """`passes` steps of Adam on fresh triplets of the round; the mean loss of the last tenth.

        None where no prompt has a best, a good and a bad image: nothing is trained then.

        Raises:
            GuardError: the loss or its gradient is not finite.
        """
        settings = self.settings
        # Each image is encoded once a pass, however many triplets it is in.
        x0 = torch.cat([labelled.x0, labelled.best_x0]).to(self.device)
        losses = []
        for _ in range(settings.passes):
            drawn = draw_triplets(labelled, generator)
            if not len(drawn.anchor):
                return None
            rows = torch.cat([drawn.anchor + len(labelled.x0), drawn.positive, drawn.negative])
            self.optimizer.zero_grad(set_to_none=True)
            projection = self.networks["head"](self.networks["encoder"](x0))
            anchor, positive, negative = projection[rows.to(self.device)].chunk(3)
            loss = triplet_margin_loss(
                anchor,
                positive,
                negative,
                settings.margin,
                over_batch=settings.cosine_over == "batch",
            )
            loss.backward()
            gradients = [p.grad for p in self.networks.parameters() if p.grad is not None]
            check_finite(
                float(loss.detach()), float(torch.nn.utils.get_total_norm(gradients)), "encoder"
            )
            self.optimizer.step()
            losses.append(float(loss.detach()))
        last = losses[-max(1, len(losses) // 10) :]
        return sum(last) / len(last)

    def state(self) -> dict[str, Tensor]:
        """Weights and optimizer."""
        weights = {f"networks.{name}": part for name, part in self.networks.state_dict().items()}
        moments = {
            f"optimizer.{name}": part for name, part in optimizer_tensors(self.optimizer).items()
        }
        return weights | moments

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        parts: dict[str, dict[str, Tensor]] = {"networks": {}, "optimizer": {}}
        for path, tensor in state.items():
            part, _, name = path.partition(".")
            parts[part][name] = tensor
        self.networks.load_state_dict(parts["networks"])
        load_optimizer_tensors(self.optimizer, parts["optimizer"])


def _started(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """Weights and bias from `generator`, as torch's own start: it would use the global one."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    bound = weight[0].numel() ** -0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)
    nn.init.uniform_(bias, -bound, bound, generator=generator)
    return layer
