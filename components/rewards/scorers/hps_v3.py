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
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLModel

from components.contracts.device import find_device
from components.contracts.errors import DataError
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import (
    CLIP_MEAN,
    CLIP_STD,
    Images,
    Preprocessing,
    in_equal_parts,
    resized,
)
from components.rewards.scorers.checkpoints import (
    Source,
    load_weights,
    located,
    pretrained,
    unallocated,
    weight_file,
)
from components.rewards.scorers.settings import HpsV3Settings

FILE = "HPSv3.safetensors"
INSTRUCTION = Path(__file__).with_name("hps_v3_instruction.txt")
"""The authors' words in Qwen2-VL's chat form; their licence is beside it."""
REWARD_TOKEN, IMAGE_TOKEN = "<|Reward|>", "<|image_pad|>"
AREA = 256 * 28 * 28
"""Pixels of a picture after resizing, about."""
MAX_RATIO = 200
"""Of the two edges."""
NUM_FRAMES = 2
"""Qwen2-VL sees a picture as a film of this many equal frames."""
ARCHITECTURE: dict[str, Any] = {
    "text_config": {
        # The 151657 tokens of Qwen2-VL and the one for the reward.
        "vocab_size": 151658,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "mrope_section": [16, 24, 24],
        },
    },
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 3584,
        "num_heads": 16,
        "mlp_ratio": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": NUM_FRAMES,
    },
}
"""Qwen2-VL-7B-Instruct."""
HEAD = (1024, 16, 2)
"""Widths of the reward head."""
NOT_NEEDED = ("lm_head.weight",)
MAX_KEPT = 4096
"""Prompts whose tokens are kept."""


class RewardQwen(nn.Module):
    """Qwen2-VL without its language head, and the reward head in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.qwen = Qwen2VLModel(Qwen2VLConfig(**ARCHITECTURE))
        width, middle, last = ARCHITECTURE["text_config"]["hidden_size"], *HEAD[:2]
        self.head = nn.Sequential(
            nn.Linear(width, middle),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(middle, last),
            nn.ReLU(),
            nn.Linear(last, HEAD[2]),
        )

    def forward(
        self,
        input_ids: Int64[Tensor, "b n"],
        patches: Float32[Tensor, "b p d"],
        grid: tuple[int, int],
        reward_at: int,
    ) -> Float32[Tensor, "b 2"]:
        """mu and log sigma of each row, read at the token number `reward_at`.

        `grid` is the number of patches along height and width; `input_ids` hold one image token for
        every square of merged patches.
        """
        qwen, count = self.qwen, len(input_ids)
        grids = torch.tensor([[1, *grid]], device=patches.device).expand(count, 3)
        seen = qwen.visual(patches.flatten(0, 1).to(qwen.dtype), grid_thw=grids).pooler_output
        embedded = qwen.get_input_embeddings()(input_ids)
        places = (input_ids == self.image_token)[..., None].expand_as(embedded)
        read = qwen.language_model(
            inputs_embeds=embedded.masked_scatter(places, seen.to(embedded.dtype)),
            position_ids=torch.arange(input_ids.shape[1], device=patches.device).expand(count, -1),
            use_cache=False,
        )
        return self.head(read.last_hidden_state[:, reward_at].float())

    @property
    def image_token(self) -> int:
        """Number of the token that a merged patch takes the place of."""
        return int(self.qwen.config.image_token_id)


class HpsV3Scorer:
    """Unbounded, about 0 to 15; pictures of different prompts can be compared."""

    differentiable = True

    def __init__(self, model: RewardQwen, tokenizer: Any, batch_size: int) -> None:
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._reward_token = int(tokenizer.convert_tokens_to_ids(REWARD_TOKEN))
        self._tokens = lru_cache(MAX_KEPT)(self._tokenized)
        vision = ARCHITECTURE["vision_config"]
        self._patch, self._merge = int(vision["patch_size"]), int(vision["spatial_merge_size"])

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
        tokenizer = pretrained(AutoTokenizer, place, "a model with Qwen2-VL's tokenizer")
        tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
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
        step = self._patch * self._merge
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
            pixels = resized(images[rows].to(device), height, width, "bicubic")
            normal = Preprocessing(height, width, "bicubic", CLIP_MEAN, CLIP_STD).normalise(pixels)
            patches = self._patches(normal)
            grid = (height // self._patch, width // self._patch)
            return self._model(ids[rows].to(device), patches, grid, reward_at)

        return in_equal_parts(len(images), self._batch_size, compute)

    def _patches(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p d"]:
        """Patches in the order of merged squares, each [3, frame, patch, patch] in one row."""
        count, channels, height, width = pixels.shape
        square, patch = self._merge, self._patch
        rows, columns = height // (patch * square), width // (patch * square)
        split = pixels.view(count, channels, rows, square, patch, columns, square, patch)
        ordered = split.permute(0, 2, 5, 3, 6, 1, 4, 7)
        film = ordered.unsqueeze(6).expand(*ordered.shape[:6], NUM_FRAMES, *ordered.shape[6:])
        return film.reshape(count, rows * columns * square**2, -1)

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


def official_name(name: str) -> Source:
    """Where `HPSv3.safetensors` keeps the weight that is called `name` in `RewardQwen`."""
    for ours, theirs in (
        ("head.", "rm_head."),
        ("qwen.visual.", "visual."),
        ("qwen.language_model.", "model."),
    ):
        if name.startswith(ours):
            return Source(theirs + name.removeprefix(ours))
    return Source(name)
