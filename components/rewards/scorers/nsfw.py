"""How safe a picture is, by an image classifier such as Falconsai/nsfw_image_detection.

Higher is better, so the score is 1 - p, with p the sum of the probabilities of the labels that
`unsafe_labels` names. Any classifier of transformers with a list of labels will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from components.contracts.device import find_device
from components.contracts.errors import ModelError, SettingsError
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, Preprocessing, in_equal_parts, resized
from components.rewards.scorers.hub import located, pretrained
from components.rewards.scorers.settings import NsfwScorerSettings

WHAT = "an image classifier with its image processor"
SHAPES = (
    ({"height", "width"}, set[str]()),
    ({"shortest_edge"}, {"height", "width"}),
)
"""The lengths that a size and a crop may have."""
Preparation = Callable[[Images], Float[Tensor, "b 3 h w"]]


class NsfwScorer:
    """1 is safe and 0 is not; the prompts say nothing."""

    differentiable = True

    def __init__(
        self, model: Any, prepare: Preparation, safe: Sequence[int], batch_size: int
    ) -> None:
        """`safe` are the numbers of the labels that are no reason to hide a picture."""
        self._model, self._prepare, self._safe = model, prepare, list(safe)
        self._batch_size = batch_size

    @classmethod
    def build(
        cls, settings: NsfwScorerSettings, compute: ComputeSettings, root: Path
    ) -> NsfwScorer:
        """Open the classifier that `settings` names.

        Raises:
            ModelError: it is missing, truncated, or no image classifier.
            SettingsError: it has no such label, or no label is left for pictures that are safe.
        """
        source = located(settings.model, root)
        config = pretrained(AutoConfig, source, WHAT)
        kinds: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)
        if kinds is None:
            raise ModelError(f"model_type '{config.model_type}'", file=source, allowed=WHAT)
        kind = kinds[0] if isinstance(kinds, tuple) else kinds
        safe = _safe_labels(config, settings)
        prepare = preparation(pretrained(AutoImageProcessor, source, WHAT, backend="pil"), source)
        model = pretrained(kind, source, WHAT).to(find_device(compute))
        return cls(model, prepare, safe, settings.batch_size)

    def score(self, images: Images, prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Scores in [0, 1], with the graph of float images."""

        def safety(rows: Tensor) -> Tensor:
            pixels = self._prepare(images[rows].to(self._model.device))
            logits = self._model(pixel_values=pixels.to(self._model.dtype)).logits
            return logits.softmax(dim=-1)[:, self._safe].sum(dim=-1)

        return in_equal_parts(len(images), self._batch_size, safety)


def preparation(processor: Any, source: Path | str) -> Preparation:
    """What an image processor does, on tensors: it resizes to a height and a width, or to a
    shortest edge, of which it cuts out the centre; then it normalises.

    Raises:
        ModelError: it does something else.
    """
    size = _lengths(processor.size)
    crop = _lengths(processor.crop_size) if processor.do_center_crop else {}
    edges = (set(size), set(crop))
    usual = processor.do_resize and processor.do_rescale and processor.do_normalize
    others = processor.do_pad or getattr(processor, "crop_pct", None)
    if edges not in SHAPES or not usual or others or abs(processor.rescale_factor - 1 / 255) > 1e-6:
        raise ModelError(
            f"{type(processor).__name__} with size {size} and crop {crop} is not known here",
            file=source,
            allowed="size height and width, or shortest_edge and do_center_crop; then do_normalize",
        )
    steps = Preprocessing.from_config(
        {
            "size": size,
            "crop_size": crop or size,
            "resample": processor.resample,
            "image_mean": processor.image_mean,
            "image_std": processor.image_std,
        },
        str(source),
    )
    if crop:
        return steps
    target = size["height"], size["width"]
    return lambda images: steps.normalise(resized(images, *target, steps.filter))


def _lengths(size: Any) -> dict[str, int]:
    return {name: length for name, length in dict(size or {}).items() if length is not None}


def _safe_labels(config: Any, settings: NsfwScorerSettings) -> list[int]:
    labels = {number: str(label).lower() for number, label in config.id2label.items()}
    unsafe = {label.lower() for label in settings.unsafe_labels}
    safe = [number for number, label in sorted(labels.items()) if label not in unsafe]
    if not unsafe <= set(labels.values()) or not safe:
        raise SettingsError(
            f"'{settings.model}' tells apart {', '.join(config.id2label.values())}; unsafe_labels "
            f"are {', '.join(settings.unsafe_labels)}",
            allowed="one or more of its labels, but not all",
        )
    if config.problem_type == "multi_label_classification":
        raise ModelError(
            "gives each label a probability of its own",
            file=settings.model,
            allowed="labels of which one is true",
        )
    return safe
