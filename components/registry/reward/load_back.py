"""Does the registry give back the reward model that was trained? The scores of some pictures tell.

The version is opened from the registry's own address as MLflow opens it for anybody, and must give
the very scores that the folder of the stage gives: the same program on the same machine has no
reason to round differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.artifacts import encode_png
from components.contracts.settings import ComputeSettings
from components.registry.gates import Gate, above
from components.registry.session import quiet

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float32, UInt8
    from torch import Tensor

NUM_PICTURES = 8
SIDE = 96
"""Pixels; the reward model scales pictures itself."""


@dataclass(frozen=True)
class RewardProbe:
    """Some pictures, their prompts and the scores that the training side gives them."""

    images: UInt8[Tensor, "b 3 h w"]
    prompts: tuple[str, ...]
    scores: Float32[Tensor, " b"]

    def gate(self) -> Gate:
        """The scores must differ, else equal ones prove nothing."""
        spread = float(self.scores.max() - self.scores.min())
        return above(
            "reward_varies", round(spread, 6), 0.0, "range of the scores of the probe's pictures"
        )


def score_probe(
    folder: Path, prompts: Sequence[str], generator: torch.Generator, threads: int
) -> RewardProbe:
    """Draw soft spots of colour and score them with the model in `folder`.

    On the CPU, whatever trained the model: there equal programs give equal bits.

    Raises:
        ModelError: the folder is no reward model.
        GuardError: a score is not finite.
    """
    from components.rewards.scorers import build_scorer
    from components.rewards.scorers.settings import ModelScorerSettings

    images = soft_spots(NUM_PICTURES, generator)
    texts = tuple(prompts[number % len(prompts)] for number in range(NUM_PICTURES))
    settings = ModelScorerSettings(path=folder.resolve().as_posix())
    scorer = build_scorer(settings, ComputeSettings(device="cpu", threads=threads), folder.parent)
    return RewardProbe(images, texts, scorer.score(images, texts).detach())


def score_registered(uri: str, probe: RewardProbe) -> Float32[Tensor, " b"]:
    """The scores of the probe's pictures by the model at `uri` (`models:/name/version`)."""
    import mlflow.pyfunc
    import pandas as pd
    import torch

    frame = pd.DataFrame(
        {"image": [encode_png(image) for image in probe.images], "prompt": probe.prompts}
    )
    with quiet():
        found = mlflow.pyfunc.load_model(uri).predict(frame)
    return torch.tensor(found["score"].to_numpy(), dtype=torch.float32)


def soft_spots(count: int, generator: torch.Generator) -> UInt8[Tensor, "b 3 h w"]:
    """Pictures of a few smooth patches of colour, which a model of pictures can tell apart."""
    import torch
    from torch.nn.functional import interpolate

    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    return (fine * 255).round().to(torch.uint8)
