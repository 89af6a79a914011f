"""CLIPScore: how well a picture fits its prompt (Hessel et al. 2104.08718, section 3).

    CLIP-S(c, v) = w * max(cos(c, v), 0),  w = 2.5

`c` and `v` are the features of the text and of the image. The authors' code puts "A photo depicts "
before every caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float32
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images
from components.rewards.scorers.clip_towers import ClipTowers, cleaned
from components.rewards.scorers.hub import located
from components.rewards.scorers.published_settings import ClipScoreSettings

WEIGHT = 2.5
"""`w`: spreads the cosines of real pairs over about [0, 1]."""


class ClipScorer:
    """In [0, 2.5]; a picture that points away from its prompt gets 0, and no gradient."""

    differentiable = True

    def __init__(self, towers: ClipTowers, prefix: str) -> None:
        self._towers, self._prefix = towers, prefix

    @classmethod
    def build(cls, settings: ClipScoreSettings, compute: ComputeSettings, root: Path) -> ClipScorer:
        """Open the model that `settings` names.

        Raises:
            ModelError: it is missing, truncated or of another kind.
        """
        model = located(settings.model, root)
        towers = ClipTowers.load(model, model, settings.batch_size, even_crop=True)
        return cls(towers.to(find_device(compute)), settings.prefix)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """CLIP-S of each image."""
        captions = [cleaned(self._prefix + prompt) for prompt in prompts]
        return WEIGHT * self._towers.cosines(images, captions).clamp_min(0)
