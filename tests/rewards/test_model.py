"""The reward model's steps and its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from components.contracts.errors import ModelError
from components.contracts.seeds import torch_generator
from components.rewards.model import RewardModel
from tests.rewards.world import pictures
from tests.support.tiny_clip import tiny_clip

PROMPTS = ["a cat", "red fox", "sea"]


@pytest.fixture(params=["transformer", "convolutional"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> RewardModel:
    convolutional = request.param == "convolutional"
    found = RewardModel.from_clip(tiny_clip(tmp_path / "clip", convolutional=convolutional))
    found.mean, found.std = 0.25, 2.5
    return found.eval()


@torch.no_grad()
def rewards(model: RewardModel, images: torch.Tensor) -> torch.Tensor:
    image = model.image_features(model.normalise(model.resize(images)))
    return model.reward(image, model.text_features(model.tokenize(PROMPTS)))


@torch.no_grad()
def test_equals_the_logits_of_clip(model: RewardModel) -> None:
    images = pictures(3, 0)
    pixels = model.normalise(images)
    encoded = model.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    logits = model.clip(pixel_values=pixels, **encoded).logits_per_image.diagonal()
    assert torch.allclose(rewards(model, images), (logits - 0.25) / 2.5, atol=1e-5)


def test_resizing_is_pillows(model: RewardModel) -> None:
    noise = torch.randint(0, 256, (3, 40, 40), generator=torch_generator(0), dtype=torch.uint8)
    found = model.resize(noise[None])[0].int()
    picture = Image.fromarray(noise.permute(1, 2, 0).numpy())
    expected = numpy.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC))
    difference = (found - torch.from_numpy(expected.copy()).permute(2, 0, 1).int()).abs()
    assert found.shape == (3, 16, 16)
    assert int(difference.max()) <= 1


def test_the_shortest_edge_is_fitted_and_the_centre_is_kept(model: RewardModel) -> None:
    wide = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    wide[..., 16:48] = 200
    assert model.resize(wide).shape == (1, 3, 16, 16)
    assert int(model.resize(wide)[..., 2:-2].min()) == 200


def test_saved_and_loaded_scores_the_same_without_the_backbone(
    model: RewardModel, tmp_path: Path
) -> None:
    images = pictures(3, 1)
    model.save(tmp_path / "reward")
    shutil.rmtree(tmp_path / "clip")
    loaded = RewardModel.load(tmp_path / "reward").eval()
    assert torch.equal(rewards(loaded, images), rewards(model, images))
    assert (loaded.mean, loaded.std) == (0.25, 2.5)


def test_saved_twice_gives_the_same_bytes(model: RewardModel, tmp_path: Path) -> None:
    model.save(tmp_path / "1")
    RewardModel.load(tmp_path / "1").save(tmp_path / "2")
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert {"config.json", "model.safetensors", "reward.json"} <= set(names)
    assert names == sorted(path.name for path in (tmp_path / "2").iterdir())
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_other_programs_open_it_as_clip(model: RewardModel, tmp_path: Path) -> None:
    model.save(tmp_path / "reward")
    _, problems = type(model.clip).from_pretrained(tmp_path / "reward", output_loading_info=True)
    assert not problems["missing_keys"]
    assert not problems["unexpected_keys"]


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def another_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))


def remove_constants(folder: Path) -> None:
    (folder / "reward.json").unlink()


def unknown_version(folder: Path) -> None:
    (folder / "reward.json").write_text(json.dumps({"format_version": 9, "mean": 0, "std": 1}))


def empty_constants(folder: Path) -> None:
    (folder / "reward.json").write_text("{}")


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "is no usable CLIP model"),
        (remove_weights, "is no usable CLIP model"),
        (spoil_config, "is no usable CLIP model"),
        (another_kind, "model_type 'bert'.*allowed: model_type clip or vision-text-dual-encoder"),
        (remove_constants, "is no reward model .*reward.json: no such file"),
        (unknown_version, "reward.json: has format_version 9; allowed: 1"),
        (empty_constants, "lacks format_version, mean or std"),
        (remove_all, "no such model folder"),
    ],
)
def test_a_damaged_folder_is_one_line(
    model: RewardModel, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "reward"
    model.save(folder)
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        RewardModel.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_weights_are_no_random_ones(model: RewardModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "reward"
    model.save(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of its towers, first text_projection"):
        RewardModel.load(folder)
