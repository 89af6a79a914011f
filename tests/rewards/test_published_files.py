"""Files of published networks that are missing, damaged, or of another network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.contracts.errors import ModelError
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import ScorerSettings, build_scorer
from components.rewards.scorers.published_settings import (
    AestheticSettings,
    ClipScoreSettings,
    HpsV2Settings,
    HpsV3Settings,
    ImageRewardSettings,
    PickScoreSettings,
)
from tests.rewards.tiny_networks import shrink, write_official
from tests.support.given_numbers import pictures

CPU = ComputeSettings(device="cpu", threads=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with the files of all six networks, and two that are cut in half."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        folder = write_official(tmp_path_factory.mktemp("official"))
        content = (folder / "ImageReward.pt").read_bytes()
        (folder / "half.pt").write_bytes(content[: len(content) // 2])
        copy(folder / "clip", folder / "cut")
        content = (folder / "cut/model.safetensors").read_bytes()
        (folder / "cut/model.safetensors").write_bytes(content[: len(content) // 2])
        yield folder


def copy(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


@dataclass
class Lost:
    name: str
    settings: ScorerSettings
    message: str


LOST = [
    Lost("hps_v2", HpsV2Settings(checkpoint="ImageReward.pt", tokenizer="clip"),
         "ImageReward.pt: holds another architecture: 62 weights missing, first logit_scale; "
         "96 unknown, first blip.visual_encoder.cls_token; allowed: the 62 weights of open_clip"),
    Lost("hps_v2", HpsV2Settings(checkpoint=".", tokenizer="clip", version="2.0"),
         "HPS_v2_compressed.pt: no such file"),
    Lost("hps_v2", HpsV2Settings(checkpoint=".", tokenizer="bert"),
         "bert: has a tokenizer of 57 tokens; allowed: CLIP's tokenizer, 54 tokens"),
    Lost("image_reward", ImageRewardSettings(checkpoint="HPSv3.safetensors", tokenizer="bert"),
         "HPSv3.safetensors: holds another architecture: "),
    Lost("image_reward", ImageRewardSettings(checkpoint="half.pt", tokenizer="bert"),
         "half.pt: is truncated, or is no weight file"),
    Lost("image_reward", ImageRewardSettings(checkpoint=".", tokenizer="clip"),
         "clip: has a tokenizer of 56 tokens; allowed: BERT's uncased tokenizer, 59 tokens"),
    Lost("hps_v3", HpsV3Settings(checkpoint=".", tokenizer="bert"),
         "bert: has a tokenizer of 58 tokens; allowed: Qwen2-VL's tokenizer, 271 tokens"),
    Lost("aesthetic", AestheticSettings(checkpoint="mlp.pth", clip="clip"),
         "mlp.pth: holds another architecture: 1 of another shape, first layers.0.weight "
         "[1024, 24] for [1024, 16]; allowed: the 10 weights of the MLP of LAION's aesthetic"),
    Lost("pick_score", PickScoreSettings(model="bert", processor="clip"), "bert: "),
    Lost("pick_score", PickScoreSettings(model="clip", processor="bert"),
         "bert: is no usable model here, nor one that a hub gives (Can't load image processor"),
    Lost("clip_score", ClipScoreSettings(model="nowhere/clip"),
         "nowhere/clip: is no usable model here, nor one that a hub gives"),
    Lost("clip_score", ClipScoreSettings(model="cut"), "cut: "),
]  # fmt: skip


@pytest.mark.parametrize("lost", LOST, ids=lambda lost: f"{lost.name}: {lost.message[:30]}")
def test_files_that_do_not_fit_are_one_line(root: Path, lost: Lost) -> None:
    with pytest.raises(ModelError) as caught:
        build_scorer(lost.settings, CPU, root)
    assert lost.message in str(caught.value)
    assert "\n" not in str(caught.value) and "; allowed: " in str(caught.value)


def test_pick_score_as_it_was_published(root: Path, tmp_path: Path) -> None:
    """Its file holds two ranges that transformers has computed since 4.31."""
    copy(root / "clip", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = PickScoreSettings(model=str(tmp_path), processor="clip", batch_size=4)
    images = pictures(3, 16, 16)
    plain = PickScoreSettings(model="clip", processor="clip", batch_size=4)
    torch.testing.assert_close(
        build_scorer(settings, CPU, root).score(images, ["sea", "b", "red"]),
        build_scorer(plain, CPU, root).score(images, ["sea", "b", "red"]),
    )
