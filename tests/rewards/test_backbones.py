"""Every reward model: its steps, its folder, and what a damaged folder says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.contracts.errors import ModelError
from components.contracts.seeds import torch_generator
from components.rewards.backbones import RewardModel, load_reward_model, open_backbone
from components.rewards.backbones.cross_attention import CrossAttention
from components.rewards.backbones.two_towers import TwoTowers
from tests.rewards.backbones import KINDS, architecture_of, backbone, opened
from tests.rewards.world import pictures
from tests.support.tiny_clip import tiny_clip

PROMPTS = ["a cat", "red fox", "sea"]


@pytest.fixture(params=KINDS)
def model(tmp_path: Path, request: pytest.FixtureRequest) -> RewardModel:
    return opened(request.param, tmp_path / "backbone")


@torch.no_grad()
def rewards(model: RewardModel, images: torch.Tensor) -> torch.Tensor:
    return model.reward(images, model.text_states(model.tokenize(PROMPTS)))


@torch.no_grad()
def test_two_towers_equal_the_logits_of_clip(tmp_path: Path) -> None:
    model = opened("clip", tmp_path)
    assert isinstance(model, TwoTowers)
    images = pictures(3, 0)
    pixels = model.preprocessing.normalise(images)
    encoded = model.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    logits = model.clip(pixel_values=pixels, **encoded).logits_per_image.diagonal()
    assert torch.allclose(rewards(model, images), (logits - 0.25) / 2.5, atol=1e-5)


@torch.no_grad()
def test_cross_attention_reads_what_blips_matching_head_reads(tmp_path: Path) -> None:
    from transformers import BlipForImageTextRetrieval

    folder = backbone("blip", tmp_path)
    model = open_backbone("cross_attention", folder, torch_generator(0))
    assert isinstance(model, CrossAttention)
    blip = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    pixels = model.preprocessing.normalise(pictures(3, 0))
    # A head that is BLIP's own matching head: its logit of a match, by one linear layer.
    head = torch.nn.Linear(32, 1)
    head.weight.copy_(blip.itm_head.weight[1:])
    head.bias.copy_(blip.itm_head.bias[1:])
    model.head = torch.nn.Sequential(head, torch.nn.Flatten(0))  # type: ignore[assignment]
    tokens = model.tokenize(PROMPTS)
    mask = ((tokens == 53).cumsum(1) <= 1).long()
    expected = blip(pixel_values=pixels, input_ids=tokens, attention_mask=mask).itm_score[:, 1]
    found = model.score(model.image_states(pixels), model.text_states(tokens))
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_what_fills_up_a_prompt_is_not_read(model: RewardModel) -> None:
    image = model.image_states_of(pictures(1, 0))
    row = model.tokenize(["sea"])
    end = int(model.tokenizer.eos_token_id)
    assert int((row == end).sum()) > 2
    # CLIP is causal and BLIP is masked: a letter behind the end mark changes nothing.
    other = row.clone()
    other[0, -1] = 3
    if isinstance(model, CrossAttention):
        other[0, -1] = end
        row = row[:, : int((row == end).int().argmax()) + 1]
    scores = [model.score(image, model.text_states(tokens)) for tokens in (row, other)]
    assert torch.allclose(scores[0], scores[1], atol=1e-5)


def test_scores_differ_between_pictures_and_between_prompts(model: RewardModel) -> None:
    images = pictures(3, 0)
    found = rewards(model, images)
    assert found.dtype == torch.float32
    assert len(set(found.tolist())) == 3
    same = rewards(model, images[:1].expand(3, -1, -1, -1))
    assert len(set(same.tolist())) == 3


@torch.no_grad()
def test_scaled_scores_keep_their_order(model: RewardModel) -> None:
    image = model.image_states_of(pictures(3, 0))
    text = model.text_states(model.tokenize(PROMPTS))
    before = model.score(image, text)
    model.scale_scores(0.5)
    assert torch.allclose(model.score(image, text), before / 2, atol=1e-5)


def test_pixels_get_gradients(model: RewardModel) -> None:
    pixels = (pictures(3, 2).float() / 255).requires_grad_()
    text = model.text_states(model.tokenize(PROMPTS))
    model.reward(pixels, text).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.flatten(1).abs().sum(1) > 0).all()


def test_saved_and_loaded_scores_the_same_without_the_backbone(
    model: RewardModel, tmp_path: Path
) -> None:
    images = pictures(3, 1)
    model.save(tmp_path / "reward")
    shutil.rmtree(tmp_path / "backbone")
    loaded = load_reward_model(tmp_path / "reward").eval()
    assert torch.equal(rewards(loaded, images), rewards(model, images))
    assert (loaded.mean, loaded.std) == (0.25, 2.5)


@torch.no_grad()
def test_a_symmetric_model_scores_a_picture_as_its_mirror_image(
    model: RewardModel, tmp_path: Path
) -> None:
    images = pictures(3, 3)
    sides = rewards(model, images), rewards(model, images.flip(-1))
    model.symmetric = True
    model.save(tmp_path / "reward")
    loaded = load_reward_model(tmp_path / "reward").eval()
    found = rewards(loaded, images)
    assert torch.allclose(found, (sides[0] + sides[1]) / 2, atol=1e-5)
    assert torch.allclose(found, rewards(loaded, images.flip(-1)), atol=1e-5)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_saved_twice_gives_the_same_bytes(model: RewardModel, tmp_path: Path) -> None:
    model.save(tmp_path / "1")
    load_reward_model(tmp_path / "1").save(tmp_path / "2")
    assert "reward.json" in files(tmp_path / "1")
    assert files(tmp_path / "1") == files(tmp_path / "2")


@pytest.mark.parametrize("kind", ["clip", "convolutional clip", "mlp"])
def test_other_programs_open_it_as_clip(kind: str, tmp_path: Path) -> None:
    model = opened(kind, tmp_path / "backbone")
    model.save(tmp_path / "reward")
    clip = model.clip
    _, problems = type(clip).from_pretrained(  # type: ignore[union-attr]
        tmp_path / "reward", output_loading_info=True
    )
    assert not problems["missing_keys"]
    assert not problems["unexpected_keys"]


def test_the_head_is_drawn_from_the_generator(tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "clip")
    models = [open_backbone("frozen_mlp", folder, torch_generator(seed)) for seed in (1, 1, 2)]
    first, again, other = (next(iter(m.head.parameters())) for m in models)  # type: ignore[union-attr]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def weights_of(folder: Path) -> Path:
    return min(folder.rglob("model.safetensors"))


def truncate(folder: Path) -> None:
    path = weights_of(folder)
    path.write_bytes(path.read_bytes()[:1000])


def remove_weights(folder: Path) -> None:
    weights_of(folder).unlink()


def spoil_config(folder: Path) -> None:
    min(folder.rglob("config.json")).write_text("{")


def remove_constants(folder: Path) -> None:
    (folder / "reward.json").unlink()


def change_constants(folder: Path, **changes: object) -> None:
    constants = json.loads((folder / "reward.json").read_text())
    (folder / "reward.json").write_text(json.dumps({**constants, **changes}))


def unknown_version(folder: Path) -> None:
    change_constants(folder, format_version=9)


def unknown_architecture(folder: Path) -> None:
    change_constants(folder, architecture="three_towers")


def empty_constants(folder: Path) -> None:
    (folder / "reward.json").write_text("{}")


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["clip", "mlp", "blip"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "is no usable backbone"),
        (remove_weights, "is no usable backbone"),
        (spoil_config, "is no usable backbone"),
        (remove_constants, "is no reward model .*reward.json: no such file"),
        (unknown_version, "reward.json: has format_version 9; allowed: 2"),
        (unknown_architecture, "'three_towers'; allowed: two_towers, cross_attention, frozen_mlp"),
        (empty_constants, "lacks format_version, architecture, mean, std or symmetric"),
        (remove_all, "no such model folder"),
    ],
)
def test_a_damaged_folder_is_one_line(
    kind: str, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "reward"
    opened(kind, tmp_path / "backbone").save(folder)
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_reward_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("kind", "spoiled"), [("mlp", "clip"), ("clip", "blip"), ("blip", "clip")])
def test_a_backbone_of_another_kind_is_refused(kind: str, spoiled: str, tmp_path: Path) -> None:
    other = {"mlp": "cross_attention"}.get(kind, architecture_of(kind))
    folder = backbone(spoiled, tmp_path / "backbone")
    with pytest.raises(ModelError, match=r"backbone: .*(is no usable|lacks \d+ weights)"):
        open_backbone(other, folder, torch_generator(0))


@pytest.mark.parametrize("kind", ["mlp", "blip"])
def test_a_truncated_or_narrow_head_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "reward"
    opened(kind, tmp_path / "backbone").save(folder)
    change_constants(folder, hidden=[8])
    with pytest.raises(ModelError, match=r"head.safetensors: holds another head; allowed: widths"):
        load_reward_model(folder)
    head = folder / "head.safetensors"
    head.write_bytes(head.read_bytes()[:100])
    with pytest.raises(ModelError, match="has no usable head"):
        load_reward_model(folder)


def test_missing_weights_are_no_random_ones(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "reward"
    opened("clip", tmp_path / "backbone").save(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of its towers, first text_projection"):
        load_reward_model(folder)
