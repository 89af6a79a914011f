"""The shipped weights: base model, judge, CLIP, and the people who look through the judge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.miniature import judge as judges
from components.miniature import people, tokens, training
from components.miniature.figures import draw, load_base
from components.miniature.judge import Judge
from components.miniature.scenes import caption, parse_prompt, read_prompts, render, sample_scene
from components.miniature.world import BASE_STYLES, HELD_OUT_STYLE, TASKS

ROOM = training.ROOM


@pytest.fixture(scope="module")
def judge() -> Judge:
    return judges.load()


def _renders(num: int, seed: int, styles: tuple[str, ...]) -> tuple[torch.Tensor, list[str]]:
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(num)]
    images = np.stack([render(scene, rng, styles) for scene in scenes])
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return pictures, [caption(scene) for scene in scenes]


@pytest.mark.parametrize("styles", [BASE_STYLES, (HELD_OUT_STYLE,)])
def test_the_judge_reads_fresh_renders(judge: Judge, styles: tuple[str, ...]) -> None:
    images, prompts = _renders(200, 99, styles)
    assert judge.correct(images, prompts).float().mean() > 0.93
    assert judge.score(images, prompts).mean() > 0.85


def test_the_judge_denies_the_captions_of_other_pictures(judge: Judge) -> None:
    images, prompts = _renders(64, 98, BASE_STYLES)
    wrong = prompts[1:] + prompts[:1]
    assert judge.correct(images, wrong).float().mean() < 0.1
    assert judge.score(images, wrong).mean() < 0.1


def test_a_colour_a_count_or_a_place_alone_makes_the_difference(judge: Judge) -> None:
    rng = np.random.default_rng(5)
    for right, wrong in (
        ("a green rabbit", "a blue rabbit"),
        ("four wolves", "three wolves"),
        ("a dog on the moon", "a dog in the sea"),
        ("a cat and a dog", "a cat and a cow"),
    ):
        images = np.stack([render(parse_prompt(right), rng) for _ in range(8)])
        pictures = torch.from_numpy(images).permute(0, 3, 1, 2)
        gap = judge.log_score(pictures, [right] * 8) - judge.log_score(pictures, [wrong] * 8)
        assert (gap > 0).float().mean() > 0.8, right


def test_the_judge_names_what_it_cannot_read(judge: Judge) -> None:
    with pytest.raises(ValueError, match="uint8"):
        judge.read(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="2 pictures but 1 prompts"):
        judge.score(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), ["a dog"])


def test_the_judge_reports_its_own_error(judge: Judge) -> None:
    low, high = judge.report["interval_95"]  # type: ignore[misc]
    assert 0 <= low <= judge.error_rate <= high < 0.1
    assert set(judge.report["by_task"]) == set(TASKS)  # type: ignore[call-overload]


def test_every_word_of_every_prompt_is_one_token() -> None:
    tokenizer = tokens.build()
    for prompt, _ in read_prompts():
        assert len(tokenizer(prompt).input_ids) == len(prompt.split()) + 2
    assert len(tokenizer("an unheard zebra").input_ids) > 5


def test_the_base_model_opens_and_draws_what_is_asked(judge: Judge) -> None:
    pipeline = load_base()
    prompts = [prompt for prompt, task in read_prompts() if task in ("plain", "location")][::10]
    images = draw(pipeline, prompts, seed=1)
    assert images.shape == (len(prompts), 3, 64, 64) and images.dtype == torch.uint8
    assert judge.correct(images, prompts).float().mean() > 0.2
    once, again = (draw(pipeline, prompts[:2], seed=2) for _ in range(2))
    assert torch.equal(once, again)


def test_the_weights_are_small_half_precision_and_open_in_single() -> None:
    limits = {"base": 15e6, "judge": 3e6, "clip": 4e6}
    for name, limit in limits.items():
        files = [path for path in (ROOM / name).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= limit
        assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    assert json.loads((ROOM / "base/text_encoder/config.json").read_text())["dtype"] == "float32"


def test_clip_tells_pictures_apart() -> None:
    from transformers import CLIPTokenizer, VisionTextDualEncoderModel

    folder = Path(ROOM / "clip")
    clip = VisionTextDualEncoderModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    prompts = ["a green rabbit", "a red car", "a dog on the moon", "a dog in the sea", "a cow"]
    rng = np.random.default_rng(0)
    images = np.stack([render(parse_prompt(prompt), rng) for prompt in prompts])
    pixels = training.to_unit(torch.from_numpy(images).permute(0, 3, 1, 2))
    encoded = tokenizer(prompts, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        logits = clip(input_ids=encoded.input_ids, pixel_values=pixels).logits_per_image
    assert (logits.argmax(1) == torch.arange(len(prompts))).float().mean() >= 0.8


def _pairs(num: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return right pictures, wrong pictures (those of the next prompt) and the prompts."""
    images, prompts = _renders(num, 41, BASE_STYLES)
    return images, images.roll(1, 0), prompts


def test_people_are_deterministic_given_a_generator(judge: Judge) -> None:
    group = people.build(3, 0.2, 0.02, 0.1, judge=judge)
    right, wrong, prompts = _pairs(40)
    labels = [
        group.compare(right, wrong, prompts, 1, torch.Generator().manual_seed(seed))
        for seed in (4, 4, 5)
    ]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    assert labels[0].dtype == torch.int64 and set(labels[0].tolist()) <= {0, 1, 2}


def test_people_prefer_what_fulfils_the_prompt(judge: Judge) -> None:
    group = people.build(4, 0.15, 0.03, 0.05, judge=judge)
    right, wrong, prompts = _pairs(80)
    for annotator in range(len(group.names)):
        chance = torch.Generator().manual_seed(annotator)
        label = group.compare(right, wrong, prompts, annotator, chance)
        assert (label == people.A_WINS).float().mean() > 0.75


def test_people_call_equal_pictures_a_tie(judge: Judge) -> None:
    group = people.build(1, 0.15, 0.03, 0.05, judge=judge)
    right, _, prompts = _pairs(8)
    label = group.compare(right, right, prompts, 0, torch.Generator().manual_seed(0))
    assert (label == people.TIE).all()


def test_tastes_differ_between_people(judge: Judge) -> None:
    group = people.build(5, judge=judge)
    assert len(set(group.tastes)) == len(group.names) == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_annotators", 0),
        ("temperature", 0.0),
        ("tie_threshold", -1.0),
        ("flip_probability", 0.6),
    ],
)
def test_a_group_with_impossible_settings_is_refused(judge: Judge, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        people.build(**{name: value}, judge=judge)  # type: ignore[arg-type]
