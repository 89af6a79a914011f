"""The published networks as scorers: their authors' numbers, one image at a time, with slopes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import ScorerSettings, build_scorer, clip_towers, hps_v3
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
PROMPTS = ["red fox", "the sea of a thousand ships", "b"]
SETTINGS: dict[str, ScorerSettings] = {
    "clip_score": ClipScoreSettings(model="clip", prefix="One ", batch_size=4),
    "pick_score": PickScoreSettings(model="clip", processor="clip", batch_size=4),
    "hps_v2": HpsV2Settings(checkpoint=".", tokenizer="clip", batch_size=4),
    "aesthetic": AestheticSettings(checkpoint="mlp.pth", clip="quick", batch_size=4),
    "image_reward": ImageRewardSettings(checkpoint=".", tokenizer="bert", batch_size=4),
    "hps_v3": HpsV3Settings(checkpoint=".", tokenizer="qwen", batch_size=4, dtype="float32"),
}
OFFICIAL = {
    # hpsv2 1.2.0: its CLIP, its image_transform and the lines of img_score.score.
    ("hps_v2", 64, 64): [-0.409179, -0.457942, -0.280027],
    ("hps_v2", 48, 40): [-0.299653, -0.271432, -0.153001],
    ("hps_v2", 37, 53): [-0.322768, -0.399446, -0.190243],
    # improved-aesthetic-predictor: its MLP and its normalized() on open_clip's encode_image.
    ("aesthetic", 64, 64): [0.062076, 0.105787, 0.003920],
    ("aesthetic", 48, 40): [0.094935, 0.073521, 0.081284],
    ("aesthetic", 37, 53): [0.057328, 0.047058, 0.076832],
    ("aesthetic", 32, 35): [0.054528, 0.153767, 0.121297],
    # image-reward 1.5: ImageReward.score.
    ("image_reward", 64, 64): [-1.472620, -1.750839, -1.428026],
    ("image_reward", 48, 40): [-1.430672, -1.846125, -1.855777],
    ("image_reward", 37, 53): [-2.301955, -1.556427, -2.023536],
    ("image_reward", 32, 35): [-2.440643, -1.671931, -2.353911],
    # hpsv3 1.0.0 with transformers 4.45.2: HPSv3RewardInferencer.reward.
    ("hps_v3", 48, 40): [0.148316, 0.113048, 0.126880],
    ("hps_v3", 37, 53): [0.150828, 0.132571, 0.133182],
}
"""What the authors' programs gave for `PROMPTS` and `pictures(3, height, width)`, with the weights
that `write_official` writes and the tokens of its tokenizers."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with the files of all six networks, at the size of a test."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        yield write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """HPSv3 with four tokens for a picture and few words: what it computes stays the same."""
    monkeypatch.setattr(hps_v3, "AREA", 4 * 28 * 28)
    monkeypatch.setattr(hps_v3, "instruction", lambda: "{image}{text_prompt}<|Reward|>.")


@pytest.fixture(params=SETTINGS)
def scorer(request: pytest.FixtureRequest, root: Path, brief: None) -> Scorer:
    return build_scorer(SETTINGS[request.param], CPU, root)


@pytest.mark.parametrize("case", OFFICIAL, ids=lambda case: "-".join(map(str, case)))
def test_scores_are_those_of_the_authors_program(root: Path, case: tuple[str, int, int]) -> None:
    name, height, width = case
    settings = SETTINGS[name].model_copy(update={"batch_size": 1})
    scores = build_scorer(settings, CPU, root).score(pictures(3, height, width), PROMPTS)
    # Enlarging for HPSv3, a few bytes in a thousand are one off Pillow's.
    atol = 2e-5 if name == "hps_v3" else 2e-6
    torch.testing.assert_close(scores, torch.tensor(OFFICIAL[case]), atol=atol, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (37, 53)])
def test_clip_and_pick_score_by_transformers_own_steps(root: Path, size: tuple[int, int]) -> None:
    clip = CLIPModel.from_pretrained(root / "clip").eval()
    tokenizer = AutoTokenizer.from_pretrained(root / "clip")
    processor = CLIPImageProcessorPil.from_pretrained(root / "clip")
    images = pictures(3, *size)
    drawn = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    pixels = processor(drawn, return_tensors="pt")["pixel_values"]
    expected = []
    for prompts in (PROMPTS, [f"One {prompt}" for prompt in PROMPTS]):
        ids = tokenizer(prompts, padding=True, truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            expected.append(clip(pixel_values=pixels, **ids).logits_per_image.diagonal())
    scale = clip.logit_scale.detach().exp()
    pick, clip_s = expected[0], 2.5 * (expected[1] / scale).clamp_min(0)
    found = {
        name: build_scorer(SETTINGS[name], CPU, root).score(images, PROMPTS)
        for name in ("pick_score", "clip_score")
    }
    torch.testing.assert_close(found["pick_score"], pick, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["clip_score"], clip_s, atol=1e-6, rtol=1e-5)
    assert float(pick.std()) > 0.1


def test_clip_score_ends_at_zero(root: Path) -> None:
    images = (pictures(8, 16, 16).float() / 255).requires_grad_()
    pick = build_scorer(SETTINGS["pick_score"], CPU, root)
    settings = ClipScoreSettings(model="clip", prefix="", batch_size=4)
    scorer = build_scorer(settings, CPU, root)
    cosines = pick.score(images.detach(), ["red fox"] * 8)
    scores = scorer.score(images, ["red fox"] * 8)
    below = cosines < 0
    assert 0 < int(below.sum()) < 8
    assert scores[below].eq(0).all() and scores[~below].gt(0).all()
    (slope,) = torch.autograd.grad(scores.sum(), images)
    assert not slope[below].any() and slope[~below].any()


def test_a_score_does_not_depend_on_the_batch(scorer: Scorer) -> None:
    images = pictures(6, 40, 48)
    prompts = [*PROMPTS, "a b", "red fox", "sea"]
    together = scorer.score(images, prompts)
    alone = [scorer.score(images[row : row + 1], [prompts[row]]) for row in range(6)]
    assert torch.equal(torch.cat(alone), together)
    mixed = torch.tensor([4, 0, 5, 2])
    again = scorer.score(images[mixed], [prompts[row] for row in mixed])
    assert torch.equal(again, together[mixed])
    assert together.unique().numel() > 1


def test_bytes_and_floats_differ_by_rounding_alone(scorer: Scorer) -> None:
    images = pictures(3, 40, 48)
    scores = scorer.score(images, PROMPTS)
    floats = scorer.score(images.float() / 255, PROMPTS)
    spread = float((scorer.score(255 - images, PROMPTS) - scores).abs().max())
    assert float((floats - scores).abs().max()) < 0.02 * spread


def test_the_gradient_is_the_steepest_slope(scorer: Scorer) -> None:
    assert scorer.differentiable
    images = (0.25 + 0.5 * pictures(2, 40, 48).float() / 255).requires_grad_()
    prompts = ["red fox", "b"]
    scores = scorer.score(images, prompts)
    for row in range(2):
        (slope,) = torch.autograd.grad(scores[row], images, retain_graph=True)
        assert slope[row].any() and not slope[1 - row].any()
        step = 0.003 * slope / slope.norm()
        with torch.no_grad():
            ahead, behind = (scorer.score(images + way * step, prompts) for way in (1, -1))
        assert float((ahead - behind)[row]) == pytest.approx(float(0.006 * slope.norm()), rel=0.02)


def test_scores_of_constants_have_no_graph(scorer: Scorer) -> None:
    assert not scorer.score(pictures(2, 40, 48).float() / 255, ["", "b"]).requires_grad


@pytest.mark.parametrize("name", ["clip_score", "pick_score", "hps_v2"])
def test_a_prompt_is_read_once(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_towers, "MAX_KEPT", 2)
    scorer: Any = build_scorer(SETTINGS[name], CPU, root)
    towers = scorer._scorer._towers
    read: list[int] = []
    towers.clip.text_model.register_forward_hook(lambda *_: read.append(1))
    images = pictures(3, 16, 16)
    first = scorer.score(images, ["a", "b", "a"])
    assert len(read) == 2
    assert torch.equal(scorer.score(images, ["a", "b", "a"]), first)
    assert len(read) == 2
    scorer.score(images, ["c", "c", "c"])
    assert len(read) == 3 and len(towers._texts) == 2
    assert torch.equal(scorer.score(images, ["a", "b", "a"]), first)


def test_the_aesthetic_score_does_not_look_at_the_prompt(root: Path) -> None:
    scorer = build_scorer(SETTINGS["aesthetic"], CPU, root)
    images = pictures(2, 32, 32)
    assert torch.equal(scorer.score(images, ["a", "b"]), scorer.score(images, ["c", ""]))


def test_image_reward_reads_35_tokens(root: Path) -> None:
    scorer = build_scorer(SETTINGS["image_reward"], CPU, root)
    images = pictures(1, 32, 32).expand(4, -1, -1, -1)
    # 33 letters and the two marks.
    scores = scorer.score(images, ["a " * 33, "a " * 33 + "b", "a " * 32 + "b", "A " * 33])
    assert scores[0] == scores[1] == scores[3] != scores[2]


def test_image_reward_knows_blips_marks(root: Path) -> None:
    scorer: Any = build_scorer(SETTINGS["image_reward"], CPU, root)
    ids, mask = scorer._scorer._tokens(["a[ENC]", "[DEC]"])
    assert ids[:, :4].tolist() == [[2, 5, 58, 3], [2, 57, 3, 0]]
    assert ids.shape == (2, 35) and mask.sum(dim=1).tolist() == [4, 3]
