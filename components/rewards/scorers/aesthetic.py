"""LAION's aesthetic predictor, version 2: how much people like to look at a picture, 1 to 10.

    score(x) = mlp(v / |v|),  v the features of the picture in CLIP ViT-L/14

(C. Schuhmann, improved-aesthetic-predictor, `simple_inference.py`; used as a reward by DDPO,
2305.13301.) The five layers of the MLP have no function between them, so the score is linear in the
features; the prompt is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float32
from torch import Tensor, nn
from transformers import CLIPModel

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, Preprocessing, in_equal_parts
from components.rewards.scorers.checkpoints import load_weights, unallocated
from components.rewards.scorers.clip_towers import clip_preprocessing, image_features
from components.rewards.scorers.hub import located, pretrained, weight_file
from components.rewards.scorers.published_settings import AestheticSettings

FILE = "sac+logos+ava1-l14-linearMSE.pth"
WIDTHS = (1024, 128, 64, 16, 1)
DROPOUTS = (0.2, 0.2, 0.1, None, None)
"""Behind each layer; they do nothing in a score, but they number the layers of the file."""


class LinearStack(nn.Module):
    """The MLP on top of an embedding, as the file names it; ImageReward has the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out, dropout in zip(WIDTHS, DROPOUTS, strict=True):
            layers += [nn.Linear(width, out), *([nn.Dropout(dropout)] if dropout else [])]
            width = out
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Float32[Tensor, "b d"]) -> Float32[Tensor, " b"]:
        """One number for each embedding."""
        return self.layers(features).squeeze(-1)


class AestheticScorer:
    """About 1 to 10, mostly 4 to 7."""

    differentiable = True

    def __init__(
        self,
        clip: CLIPModel,
        mlp: LinearStack,
        prepare: Preprocessing,
        batch_size: int,
    ) -> None:
        self._clip, self._mlp = clip, mlp
        self._prepare, self._batch_size = prepare, batch_size

    @classmethod
    def build(
        cls, settings: AestheticSettings, compute: ComputeSettings, root: Path
    ) -> AestheticScorer:
        """Open the MLP and the CLIP that `settings` name.

        Raises:
            ModelError: one of them is missing, truncated or of another kind.
        """
        path = weight_file(settings.checkpoint, FILE, root)
        place = located(settings.clip, root)
        clip: Any = pretrained(CLIPModel, place, "a CLIPModel")
        prepare = clip_preprocessing(place, even_crop=True)
        with unallocated():
            mlp = LinearStack(clip.config.projection_dim)
        load_weights(mlp, path, "the MLP of LAION's aesthetic predictor")
        # Nothing is read: the text tower need not be on the device.
        del clip.text_model
        device = find_device(compute)
        return cls(clip.to(device), mlp.to(device), prepare, settings.batch_size)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """The predicted rating of each image; `prompts` are not looked at."""
        return in_equal_parts(
            len(images), self._batch_size, lambda rows: self._ratings(images[rows])
        )

    def _ratings(self, images: Images) -> Float32[Tensor, " b"]:
        pixels = self._prepare(images.to(self._clip.device)).to(self._clip.dtype)
        return self._mlp(image_features(self._clip, pixels))
