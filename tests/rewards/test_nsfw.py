"""An image classifier as judge of safety: tiny, with random weights, opened as a published one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from components.contracts.errors import ModelError, SettingsError
from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import build_scorer
from components.rewards.scorers.nsfw import preparation
from components.rewards.scorers.settings import NsfwScorerSettings
from tests.support.tiny_clip import tiny_clip

CPU = ComputeSettings(device="cpu", threads=1)
SQUASH = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 16, "width": 16},
    "resample": 2,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
}
CROP = SQUASH | {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 16, "width": 16},
    "do_center_crop": True,
    "resample": 3,
}


def classifier(folder: Path, processor: dict[str, Any] = SQUASH, **changes: Any) -> Path:
    """A ViT of two layers for pictures of 16 x 16 and three labels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
        initializer_range=0.5,
        id2label={0: "normal", 1: "NSFW", 2: "violent"},
        label2id={"normal": 0, "NSFW": 1, "violent": 2},
        **changes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    classifier(root / "squash")
    classifier(root / "crop", CROP)
    return root


def build(root: Path, model: str = "squash", **changes: Any) -> Scorer:
    return build_scorer(NsfwScorerSettings(model=model, batch_size=4, **changes), CPU, root)


def noise(count: int, height: int = 30, width: int = 47) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    # Large patches: what a filter makes of single pixels differs from library to library.
    small = torch.rand((count, 3, 6, 7), generator=generator)
    images = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def probabilities(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """What the libraries' own classes say, [b, 3]."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    pictures = [numpy.ascontiguousarray(image.permute(1, 2, 0)) for image in images]
    with torch.no_grad():
        return model(**processor(images=pictures, return_tensors="pt")).logits.softmax(dim=-1)


@pytest.mark.parametrize("model", ["squash", "crop"])
def test_the_score_is_one_minus_the_probability_of_the_unsafe_labels(
    root: Path, model: str
) -> None:
    images = noise(6)
    expected = probabilities(root / model, images)
    scores = build(root, model).score(images, [""] * 6)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, 1 - expected[:, 1], atol=5e-3, rtol=0)
    both = build(root, model, unsafe_labels=("nsfw", "Violent")).score(images, [""] * 6)
    torch.testing.assert_close(both, expected[:, 0], atol=5e-3, rtol=0)
    # What differs between pictures is far more than that.
    assert float(scores.std()) > 0.02


@pytest.mark.parametrize("shape", [(16, 16), (30, 47), (64, 40)])
@pytest.mark.parametrize("model", ["squash", "crop"])
def test_pictures_are_prepared_as_the_processor_does(
    root: Path, model: str, shape: tuple[int, int]
) -> None:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(root / model, backend="pil")
    images = noise(3, *shape)
    pictures = [numpy.ascontiguousarray(image.permute(1, 2, 0)) for image in images]
    expected = processor(images=pictures, return_tensors="pt")["pixel_values"]
    found = preparation(processor, "here")(images)
    assert found.shape == expected.shape == (3, 3, 16, 16)
    # One step of a byte is 1 / 255 / std; a filter may round one the other way.
    step = 1 / 255 / 0.2
    assert float((found - expected).abs().max()) <= 1.01 * step
    assert float((found - expected).abs().mean()) < 0.05 * step


def test_bytes_floats_and_batches_score_alike(root: Path) -> None:
    images = noise(6, 16, 16)
    scorer = build(root)
    scores = scorer.score(images, [""] * 6)
    assert torch.equal(scorer.score(images.float() / 255, [""] * 6), scores)
    assert torch.equal(torch.cat([scorer.score(one[None], [""]) for one in images]), scores)


def test_gradients_are_those_of_finite_differences(root: Path) -> None:
    pixels = (0.2 + 0.6 * noise(2).float() / 255).requires_grad_()
    scorer = build(root)
    assert scorer.differentiable
    (slope,) = torch.autograd.grad(scorer.score(pixels, ["", ""]).sum(), pixels)
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ahead, behind = (
            scorer.score(pixels + side * 5e-3 * direction, ["", ""]).double().sum()
            for side in (1, -1)
        )
    expected = float(ahead - behind) / 1e-2
    assert abs(expected) > 1e-3
    assert float((slope * direction).sum()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("labels", [("porn",), ("nsfw", "porn"), ("normal", "nsfw", "violent")])
def test_labels_that_decide_nothing_are_refused(root: Path, labels: tuple[str, ...]) -> None:
    message = r"tells apart normal, NSFW, violent; unsafe_labels are .*; allowed: one or more of"
    with pytest.raises(SettingsError, match=message):
        build(root, unsafe_labels=labels)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^nowhere: .*; allowed: .*an image classifier"):
        build(tmp_path, "nowhere")


def test_another_kind_of_model_is_one_line(tmp_path: Path) -> None:
    from transformers import BertConfig

    tiny_clip(tmp_path / "clip")
    BertConfig().save_pretrained(tmp_path / "text")
    with pytest.raises(
        ModelError, match=r"clip: lacks \d+ weights, first .*; allowed: an image cl"
    ):
        build(tmp_path, "clip", unsafe_labels=("LABEL_0",))
    with pytest.raises(ModelError, match="text: model_type 'bert'; allowed: an image classifier"):
        build(tmp_path, "text")


def test_a_truncated_model_is_one_line(tmp_path: Path) -> None:
    weights = classifier(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="model: is no usable model here"):
        build(tmp_path, "model")


def test_labels_that_can_hold_together_are_refused(tmp_path: Path) -> None:
    classifier(tmp_path / "model", problem_type="multi_label_classification")
    with pytest.raises(ModelError, match="gives each label a probability of its own"):
        build(tmp_path, "model")


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"shortest_edge": 16}},
        {"do_normalize": False},
        {"rescale_factor": 1.0},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 16}},
    ],
)
def test_an_unknown_preparation_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    classifier(tmp_path / "model", SQUASH | changes)
    with pytest.raises(ModelError, match="is not known here; allowed: size height and width, or"):
        build(tmp_path, "model")
