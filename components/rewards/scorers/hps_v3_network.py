"""The network of HPSv3: Qwen2-VL-7B with a reward head in place of its language head."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLModel

from components.rewards.scorers.checkpoints import Source

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


class RewardQwen(nn.Module):
    """Qwen2-VL without its language head, and the reward head in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.qwen: Any = Qwen2VLModel(Qwen2VLConfig(**ARCHITECTURE))
        first, second, last = HEAD
        self.head = nn.Sequential(
            nn.Linear(ARCHITECTURE["text_config"]["hidden_size"], first),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, last),
        )
        vision = ARCHITECTURE["vision_config"]
        self.patch, self.square = int(vision["patch_size"]), int(vision["spatial_merge_size"])

    def forward(
        self, input_ids: Int64[Tensor, "b n"], pixels: Float[Tensor, "b 3 h w"], reward_at: int
    ) -> Float32[Tensor, "b 2"]:
        """mu and log sigma of each row, read at its token number `reward_at`.

        `input_ids` hold one image token for each square of merged patches; the edges of `pixels`
        are multiples of `pixels_of_token`.
        """
        embedded = self.qwen.get_input_embeddings()(input_ids)
        places = (input_ids == self.image_token)[..., None].expand_as(embedded)
        seen = self._seen(pixels).to(embedded.dtype)
        # One position a token, as the authors run it, and not three for those of the picture.
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        read = self.qwen.language_model(
            inputs_embeds=embedded.masked_scatter(places, seen),
            position_ids=positions.expand(len(input_ids), -1),
            use_cache=False,
        )
        return self.head(read.last_hidden_state[:, reward_at].float())

    @property
    def image_token(self) -> int:
        """Number of the token that a square of merged patches takes the place of."""
        return int(self.qwen.config.image_token_id)

    @property
    def num_tokens(self) -> int:
        """Of the vocabulary."""
        return int(self.qwen.config.text_config.vocab_size)

    @property
    def pixels_of_token(self) -> int:
        """Edge of the square of pixels that becomes one token."""
        return self.patch * self.square

    def _seen(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "t d"]:
        """What the image tower gives, a row for each token of each picture."""
        count, height, width = len(pixels), pixels.shape[-2], pixels.shape[-1]
        rows, columns = height // self.pixels_of_token, width // self.pixels_of_token
        squares = pixels.view(
            count, 3, rows, self.square, self.patch, columns, self.square, self.patch
        )
        # Patches in the order of their squares; in a row channel, frame, and the patch's pixels.
        patches = squares.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        film = patches.expand(*patches.shape[:6], NUM_FRAMES, *patches.shape[7:])
        grid = [1, rows * self.square, columns * self.square]
        return self.qwen.visual(
            film.reshape(count * grid[1] * grid[2], -1).to(self.qwen.dtype),
            grid_thw=torch.tensor([grid], device=pixels.device).expand(count, 3),
        ).pooler_output


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
