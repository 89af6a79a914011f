"""PickScore: what people picked on Pick-a-Pic (Kirstain et al. 2305.01569, section 3).

    s(x, y) = exp(T) * cos(text(x), image(y))

`T` is the learnt logit scale of a CLIP ViT-H/14; the difference of two scores is the log-odds that
the first picture is preferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float32
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images
from components.rewards.scorers.clip_towers import ClipTowers
from components.rewards.scorers.hub import located
from components.rewards.scorers.published_settings import PickScoreSettings


class PickScorer:
    """About 20 for the published weights, whose exp(T) is about 100."""

    differentiable = True

    def __init__(self, towers: ClipTowers) -> None:
        self._towers = towers

    @classmethod
    def build(cls, settings: PickScoreSettings, compute: ComputeSettings, root: Path) -> PickScorer:
        """Open the model that `settings` names.

        Raises:
            ModelError: the model or its processor is missing, truncated or of another kind.
        """
        model, processor = (located(name, root) for name in (settings.model, settings.processor))
        towers = ClipTowers.load(model, processor, settings.batch_size, even_crop=False)
        return cls(towers.to(find_device(compute)))

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """s(prompt, image) of each image."""
        return self._towers.clip.logit_scale.exp() * self._towers.cosines(images, prompts)
