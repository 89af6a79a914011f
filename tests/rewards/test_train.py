"""What learns, in which batches, at which rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.contracts.seeds import torch_generator
from components.rewards.dataset import Preferences, read_preferences
from components.rewards.losses import bradley_terry_loss
from components.rewards.model import RewardModel
from components.rewards.train import (
    learning_rate,
    pair_margin,
    prompt_batches,
    train,
    trainable_parameters,
)
from tests.rewards.conftest import SETTINGS
from tests.rewards.world import rows, write_world
from tests.support.tiny_clip import tiny_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Preferences:
    folder = write_world(tmp_path_factory.mktemp("preferences"), *rows())
    return read_preferences(folder, RewardModel.from_clip(clip).resize)


@pytest.mark.parametrize(
    ("trainable", "moves", "stays"),
    [
        ("all", "vision_model.embeddings.patch_embedding.weight", None),
        (
            "last_layers",
            "vision_model.encoder.layers.2.mlp.fc1.weight",
            "vision_model.encoder.layers.1.mlp.fc1.weight",
        ),
        ("heads", "visual_projection.weight", "vision_model.encoder.layers.2.mlp.fc1.weight"),
    ],
)
def test_only_the_chosen_weights_move(
    clip: Path, data: Preferences, trainable: str, moves: str, stays: str | None
) -> None:
    model = RewardModel.from_clip(clip)
    before = {name: value.clone() for name, value in model.clip.state_dict().items()}
    settings = SETTINGS.model_copy(update={"trainable": trainable, "epochs": 1})
    train(model, data, settings, torch_generator(1, "train"))
    after = model.clip.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert moves in changed
    assert stays not in changed
    chosen = {name for name, _ in trainable_parameters(model, trainable)}
    # The scale is fitted to the validation pairs whatever learns.
    assert changed <= {*chosen, "logit_scale"}


def test_the_last_layers_of_a_convolutional_tower(tmp_path: Path) -> None:
    model = RewardModel.from_clip(tiny_clip(tmp_path / "clip", convolutional=True))
    chosen = {name for name, _ in trainable_parameters(model, "last_layers")}
    of_images = {name.removeprefix("vision_model.") for name in chosen if "vision_model." in name}
    # Three layers in two stages: the last one learns, and the norm behind it.
    assert {name.split(".")[0] for name in of_images} == {"encoder", "layernorm"}
    layers = {".".join(name.split(".")[:5]) for name in of_images if name.startswith("encoder.")}
    assert layers == {"encoder.stages.1.layers.1"}
    assert "text_model.encoder.layers.2.mlp.fc1.weight" in chosen
    assert "text_model.encoder.layers.1.mlp.fc1.weight" not in chosen


def test_a_batch_is_made_of_whole_prompts(data: Preferences) -> None:
    pairs = data.splits["train"]
    batches = list(prompt_batches(data, pairs, 20, torch_generator(0)))
    assert sorted(torch.cat(batches).tolist()) == list(range(len(pairs)))
    owners = [set(data.prompt_of[pairs.image_a[rows]].tolist()) for rows in batches]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 48
    assert all(len(rows) == 21 for rows in batches[:-1])


def test_shuffling_follows_the_generator(data: Preferences) -> None:
    def order(seed: int) -> list[int]:
        batches = prompt_batches(data, data.splits["train"], 20, torch_generator(seed))
        return torch.cat(list(batches)).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_the_best_epoch_is_kept(clip: Path, data: Preferences) -> None:
    # A rate that ruins the model: the loss of the kept epoch must be the lowest of the curve.
    model = RewardModel.from_clip(clip)
    settings = SETTINGS.model_copy(update={"learning_rate": 0.05, "epochs": 4})
    training = train(model, data, settings, torch_generator(3, "train"))
    pairs = data.splits["validation"]
    margin = pair_margin(model, data, pairs, "scoring")
    loss = float(bradley_terry_loss(margin, torch.zeros_like(margin), pairs.preference))
    # The scale goes through a logarithm and back.
    assert loss == pytest.approx(training.best.validation_loss, rel=1e-5)
    assert training.best.validation_loss == min(e.validation_loss for e in training.epochs)


def test_a_training_that_ruins_the_backbone_is_not_kept(clip: Path, data: Preferences) -> None:
    good = RewardModel.from_clip(clip)
    train(good, data, SETTINGS, torch_generator(1))
    before = pair_margin(good, data, data.splits["test"], "scoring")
    settings = SETTINGS.model_copy(update={"learning_rate": 1.0, "epochs": 1})
    training = train(good, data, settings, torch_generator(2))
    assert training.best.update == 0
    assert torch.allclose(
        pair_margin(good, data, data.splits["test"], "scoring"), before, rtol=1e-4
    )


def test_mirroring_draws_from_the_generator_and_changes_the_training(
    clip: Path, data: Preferences
) -> None:
    def first_loss(horizontal_flip: bool) -> float:
        settings = SETTINGS.model_copy(update={"horizontal_flip": horizontal_flip, "epochs": 1})
        model = RewardModel.from_clip(clip)
        return train(model, data, settings, torch_generator(1)).epochs[1].train_loss

    assert first_loss(True) == first_loss(True)
    assert first_loss(True) != first_loss(False)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    assert 0 < learning_rate(0.0) < 0.2
    assert learning_rate(0.05) == pytest.approx(1.0)
    assert learning_rate(0.525) == pytest.approx(0.5)
    assert learning_rate(1.0) == pytest.approx(0.0)
