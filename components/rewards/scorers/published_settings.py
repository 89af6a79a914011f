"""Settings of the scorers that run a published network: see docs/scorers.md."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from components.contracts.settings import StrictModel


class NetworkScorerSettings(StrictModel):
    """What every scorer has that runs a published network.

    Every model, checkpoint and tokenizer is a path relative to the project's folder or, where
    nothing lies there, a hub name.
    """

    differentiable: ClassVar[bool] = True
    batch_size: int = Field(default=16, ge=1, le=4096)
    """Images of one pass; the last pass is filled up to it, so that scores are of one image each.
    """


class ClipScoreSettings(NetworkScorerSettings):
    """CLIPScore: how well a picture fits its prompt."""

    name: Literal["clip_score"] = "clip_score"
    model: str = Field(default="openai/clip-vit-base-patch32", min_length=1)
    """A `CLIPModel` with its tokenizer and image processor."""
    prefix: str = "A photo depicts "
    """Put before every prompt, as the authors do; empty for prompts of other things than photos."""


class PickScoreSettings(NetworkScorerSettings):
    """PickScore: what people picked."""

    name: Literal["pick_score"] = "pick_score"
    model: str = Field(default="yuvalkirstain/PickScore_v1", min_length=1)
    """A `CLIPModel`."""
    processor: str = Field(default="laion/CLIP-ViT-H-14-laion2B-s32B-b79K", min_length=1)
    """Its tokenizer and image processor."""


class HpsV2Settings(NetworkScorerSettings):
    """HPSv2.1: human preference."""

    name: Literal["hps_v2"] = "hps_v2"
    version: Literal["2.0", "2.1"] = "2.1"
    """Which file a folder or hub name means; scores of the two versions cannot be compared."""
    checkpoint: str = Field(default="xswu/HPSv2", min_length=1)
    """The authors' file, a folder or hub name that holds it."""
    tokenizer: str = Field(default="laion/CLIP-ViT-H-14-laion2B-s32B-b79K", min_length=1)
    """A model with CLIP's tokenizer."""


class AestheticSettings(NetworkScorerSettings):
    """LAION's aesthetic predictor, version 2."""

    name: Literal["aesthetic"] = "aesthetic"
    checkpoint: str = Field(min_length=1)
    """`sac+logos+ava1-l14-linearMSE.pth`, which its authors give on GitHub and not on a hub, or a
    folder that holds it."""
    clip: str = Field(default="openai/clip-vit-large-patch14", min_length=1)
    """The `CLIPModel` whose image features it was trained on, with its image processor."""


class ImageRewardSettings(NetworkScorerSettings):
    """ImageReward-v1.0: general human preference."""

    name: Literal["image_reward"] = "image_reward"
    checkpoint: str = Field(default="THUDM/ImageReward", min_length=1)
    """`ImageReward.pt`, a folder or hub name that holds it."""
    tokenizer: str = Field(default="google-bert/bert-base-uncased", min_length=1)
    """A model with BERT's uncased tokenizer."""


class HpsV3Settings(NetworkScorerSettings):
    """HPSv3: human preference by a vision-language model of 7 B parameters."""

    name: Literal["hps_v3"] = "hps_v3"
    batch_size: int = Field(default=4, ge=1, le=4096)
    """Images of one pass, all of prompts with equally many tokens; the last is filled up to it."""
    checkpoint: str = Field(default="MizzenAI/HPSv3", min_length=1)
    """`HPSv3.safetensors`, a folder or hub name that holds it."""
    tokenizer: str = Field(default="Qwen/Qwen2-VL-7B-Instruct", min_length=1)
    """A model with Qwen2-VL's tokenizer."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the network, 15 GiB in bfloat16 as its authors run it; the reward head is float32."""


PublishedScorerSettings = (
    ClipScoreSettings
    | PickScoreSettings
    | HpsV2Settings
    | AestheticSettings
    | ImageRewardSettings
    | HpsV3Settings
)
