"""The reward model: the two towers of CLIP, compared by cosine, standardised.

    score(x, c)  = s * cos(image(x), text(c))            PickScore (2305.01569), section 3
    reward(x, c) = (score(x, c) - mean) / std            as ImageReward (2304.05977) does

`s` is CLIP's logit scale; `mean` and `std` are constants measured on the images of the training
split, so that a reward is about N(0, 1) there and `reward_weight` of a method means the same for
every reward model.

On disk it is a plain folder of transformers' `CLIPModel`, or of its `VisionTextDualEncoderModel`
when the image tower is of another kind, with its tokenizer (other programs open it as such), and
beside it `reward.json` with the two constants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, CLIPModel, VisionTextDualEncoderModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from components.contracts.artifacts import atomic_path, read_json, write_json
from components.contracts.errors import DataError, ModelError
from components.rewards.pictures import Images, Preprocessing

CONSTANTS = "reward.json"
FORMAT_VERSION = 1
Clip = CLIPModel | VisionTextDualEncoderModel
KINDS: dict[str, type[Clip]] = {
    "clip": CLIPModel,
    "vision-text-dual-encoder": VisionTextDualEncoderModel,
}
"""What `model_type` in config.json may be; the towers and projections of both are named alike."""


class RewardModel(nn.Module):
    """CLIP's two towers and two constants; each step from pixels to reward is a method.

    Text features are computed once per prompt and pixels once per image, so training, scoring and
    tests call only the steps that they need.
    """

    def __init__(
        self, clip: Clip, tokenizer: Any, preprocessing: dict[str, Any], source: str
    ) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.text_length = int(clip.text_model.config.max_position_embeddings)
        self.mean, self.std = 0.0, 1.0
        self._pictures = Preprocessing.from_config(preprocessing, source)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.clip.logit_scale.device

    # --- from pictures and words to features -----------------------------------------------------

    def resize(self, images: Images) -> Images:
        """Shortest edge to the towers' size, then the centre; bytes are rounded as Pillow does."""
        return self._pictures.resize(images)

    def normalise(self, images: Images) -> Float[Tensor, "b 3 s s"]:
        """To the range that the image tower was trained on."""
        return self._pictures.normalise(images)

    def tokenize(self, prompts: Sequence[str]) -> Int64[Tensor, "b n"]:
        """Token ids, cut and filled up to the text tower's length."""
        encoded = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.text_length,
            return_tensors="pt",
        )
        return encoded["input_ids"].to(self.device)

    def image_features(self, pixel_values: Float32[Tensor, "b 3 s s"]) -> Float32[Tensor, "b d"]:
        """Unit vectors of normalised pictures."""
        pooled = self.clip.vision_model(pixel_values=pixel_values).pooler_output
        return F.normalize(self.clip.visual_projection(pooled), dim=-1)

    def text_features(self, input_ids: Int64[Tensor, "b n"]) -> Float32[Tensor, "b d"]:
        """Unit vectors of tokenized prompts.

        No attention mask: the text tower is causal and reads its result off the first end mark, so
        what fills up the row behind it is never seen.
        """
        pooled = self.clip.text_model(input_ids=input_ids).pooler_output
        return F.normalize(self.clip.text_projection(pooled), dim=-1)

    # --- from features to a reward ---------------------------------------------------------------

    def score(
        self, image: Float32[Tensor, "b d"], text: Float32[Tensor, "b d"]
    ) -> Float32[Tensor, " b"]:
        """`s * cos`; a difference of two scores is the log-odds of a preference."""
        return self.clip.logit_scale.exp() * (image * text).sum(dim=-1)

    def reward(
        self, image: Float32[Tensor, "b d"], text: Float32[Tensor, "b d"]
    ) -> Float32[Tensor, " b"]:
        """The standardised score."""
        return (self.score(image, text) - self.mean) / self.std

    # --- files -----------------------------------------------------------------------------------

    @classmethod
    def from_clip(cls, source: Path | str) -> RewardModel:
        """Start from a folder, or a hub name, with a model of `KINDS` and what it needs.

        Raises:
            ModelError: nothing is there, weights are missing or truncated, or it is another kind.
        """
        name = str(source)
        local = isinstance(source, Path)
        if local and not Path(name).is_dir():
            raise ModelError("no such model folder", file=name)
        try:
            kind = AutoConfig.from_pretrained(name, local_files_only=local).model_type
            if kind not in KINDS:
                raise ValueError(f"model_type '{kind}'")
            # With loading info the result is a pair, which its annotation does not say.
            with _without_bars():
                loaded: Any = KINDS[kind].from_pretrained(
                    name, output_loading_info=True, dtype=torch.float32, local_files_only=local
                )
            clip, problems = loaded
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
            preprocessing, _ = ImageProcessingMixin.get_image_processor_dict(
                name, local_files_only=local
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"is no usable CLIP model ({_first_line(error)})",
                file=name,
                allowed=f"model_type {' or '.join(KINDS)}, with tokenizer and image processor",
            ) from None
        lacking = sorted([*problems["missing_keys"], *map(str, problems["mismatched_keys"])])
        if lacking:
            raise ModelError(
                f"lacks {len(lacking)} weights of its towers, first {lacking[0]}", file=name
            )
        return cls(clip, tokenizer, preprocessing, name)

    @classmethod
    def load(cls, folder: Path) -> RewardModel:
        """Read what `save` wrote; needs nothing but `folder`.

        Raises:
            ModelError: the folder is missing, truncated, of another kind or of an unknown version.
        """
        model = cls.from_clip(folder)
        path = folder / CONSTANTS
        try:
            constants = read_json(path)
            version = constants["format_version"]
            model.mean, model.std = float(constants["mean"]), float(constants["std"])
        except DataError as error:
            raise ModelError(f"is no reward model ({error})", file=folder) from None
        except (KeyError, TypeError, ValueError):
            raise ModelError("lacks format_version, mean or std", file=path) from None
        if version != FORMAT_VERSION:
            raise ModelError(
                f"has format_version {version}", file=path, allowed=str(FORMAT_VERSION)
            )
        return model

    def save(self, folder: Path) -> None:
        """Write the whole folder or nothing; equal models give equal bytes."""
        with atomic_path(folder) as temporary, _without_bars():
            self.clip.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            write_json(temporary / "preprocessor_config.json", self.preprocessing)
            write_json(
                temporary / CONSTANTS,
                {"format_version": FORMAT_VERSION, "mean": self.mean, "std": self.std},
            )


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bars of the library while it reads or writes a folder: it takes no time worth one."""
    active = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if active:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return re.split(r"[\n.](?:\s|$)", str(error))[0]
