"""HPSv3: human preference over a wide spectrum of pictures (Ma et al. 2508.03789, section 4).

    (mu, log sigma)(p, x) = head(h),  score = mu

`h` is what Qwen2-VL-7B gives at the token <|Reward|> of a fixed instruction around the picture and
the prompt; the score of a pair is modelled as N(mu, sigma^2), and mu is what the authors report.

Two things are as in their `inference.py` though Qwen2-VL does otherwise: the picture's area is
256 * 28^2 whatever it was, and every token has one position, not one in time, height and width.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.errors import DataError
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, in_equal_parts, normalised, resized
from components.rewards.scorers.checkpoints import load_weights, unallocated
from components.rewards.scorers.hps_v3_network import NOT_NEEDED, RewardQwen, official_name
from components.rewards.scorers.hub import located, pretrained_tokenizer, weight_file
from components.rewards.scorers.published_settings import HpsV3Settings

FILE = "HPSv3.safetensors"
INSTRUCTION = Path(__file__).with_name("hps_v3_instruction.txt")
"""The authors' words in Qwen2-VL's chat form; their licence is beside it."""
REWARD_TOKEN, IMAGE_TOKEN = "<|Reward|>", "<|image_pad|>"
AREA = 256 * 28 * 28
"""Pixels of a picture after resizing, about."""
MAX_RATIO = 200
"""Of the two edges."""
MAX_KEPT = 4096
"""Prompts whose tokens are kept."""


class HpsV3Scorer:
    """Unbounded; the authors report means of -0.2 to 10.6 for text-to-image models."""

    differentiable = True

    def __init__(self, model: RewardQwen, tokenizer: Any, batch_size: int) -> None:
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._reward_token = int(tokenizer.convert_tokens_to_ids(REWARD_TOKEN))
        self._tokens = lru_cache(MAX_KEPT)(self._tokenized)

    @classmethod
    def build(cls, settings: HpsV3Settings, compute: ComputeSettings, root: Path) -> HpsV3Scorer:
        """Open the checkpoint and the tokenizer that `settings` name.

        Raises:
            ModelError: one of them is missing, truncated or of another kind.
        """
        path = weight_file(settings.checkpoint, FILE, root)
        with unallocated():
            model = RewardQwen()
        model.qwen.to(getattr(torch, settings.dtype))
        load_weights(model, path, "HPSv3", official_name, NOT_NEEDED)
        place = located(settings.tokenizer, root)
        tokenizer = pretrained_tokenizer(
            place, "Qwen2-VL's tokenizer", model.num_tokens, [REWARD_TOKEN]
        )
        return cls(model.to(find_device(compute)), tokenizer, settings.batch_size)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """mu of each image.

        Raises:
            DataError: a prompt holds a token of the instruction, or the pictures are too narrow.
        """
        return self.mu_and_log_sigma(images, prompts)[:, 0]

    def mu_and_log_sigma(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, "b 2"]:
        """Mean and log standard deviation of each image's score.

        Rows of one length go through the network together, so that nothing is filled up and a row
        depends on no other.

        Raises:
            DataError: as `score`.
        """
        step = self._model.pixels_of_token
        height, width = sizes(images.shape[-2], images.shape[-1], step)
        rows = [self._tokens(prompt, height * width // step**2) for prompt in prompts]
        groups: dict[int, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            groups[len(row)].append(number)
        parts = []
        for members in groups.values():
            ids = torch.stack([rows[member] for member in members])
            chosen = images[torch.tensor(members, device=images.device)]
            parts.append(self._of_one_length(chosen, ids, height, width))
        order = torch.tensor([member for members in groups.values() for member in members])
        return torch.cat(parts)[order.argsort()]

    def _of_one_length(
        self, images: Images, ids: Int64[Tensor, "b n"], height: int, width: int
    ) -> Float32[Tensor, "b 2"]:
        device = self._model.qwen.device
        # The instruction's own mark is the last one, and as far from the end in every row.
        reward_at = int((ids[0] == self._reward_token).nonzero()[-1])

        def compute(rows: Tensor) -> Float32[Tensor, "c 2"]:
            pixels = normalised(resized(images[rows].to(device), height, width, "bicubic"))
            return self._model(ids[rows].to(device), pixels, reward_at)

        return in_equal_parts(len(images), self._batch_size, compute)

    def _tokenized(self, prompt: str, num_image_tokens: int) -> Int64[Tensor, " n"]:
        text = instruction().replace("{image}", IMAGE_TOKEN * num_image_tokens)
        ids = self._tokenizer(text.replace("{text_prompt}", prompt), return_tensors="pt")
        row = ids["input_ids"][0]
        marks = {self._model.image_token: num_image_tokens, self._reward_token: 1}
        if any(int((row == mark).sum()) != expected for mark, expected in marks.items()):
            raise DataError(
                f"prompt '{prompt[:60]}' cannot be scored by HPSv3",
                allowed=f"prompts without {REWARD_TOKEN} and {IMAGE_TOKEN}",
            )
        return row


@cache
def instruction() -> str:
    """What the network reads: {image} and {text_prompt} stand for the picture and the prompt."""
    return INSTRUCTION.read_text(encoding="utf-8")


def sizes(height: int, width: int, step: int) -> tuple[int, int]:
    """Height and width as multiples of `step` with about `AREA` pixels and about the same ratio.

    Qwen2-VL's `smart_resize` with least and most pixels both `AREA`.

    Raises:
        DataError: the edges are further apart than `MAX_RATIO`.
    """
    if max(height, width) > MAX_RATIO * min(height, width):
        raise DataError(
            f"images of {height} x {width} pixels", allowed=f"edges within a factor of {MAX_RATIO}"
        )
    near = tuple(max(step, round(edge / step) * step) for edge in (height, width))
    if near[0] * near[1] == AREA:
        return near[0], near[1]
    if near[0] * near[1] > AREA:
        shrink = math.sqrt(height * width / AREA)
        down = [math.floor(edge / shrink / step) * step for edge in (height, width)]
        return max(step, down[0]), max(step, down[1])
    grow = math.sqrt(AREA / (height * width))
    up = [math.ceil(edge * grow / step) * step for edge in (height, width)]
    return up[0], up[1]
