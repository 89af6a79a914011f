"""Rewards with a gradient: the numbers of the byte path, the slopes of finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from components.contracts.errors import GuardError
from components.contracts.settings import ComputeSettings
from components.rewards.backbones import load_reward_model
from components.rewards.scorers import build_scorer
from components.rewards.scorers.model import ModelScorer
from components.rewards.scorers.settings import ModelScorerSettings, PythonScorerSettings
from tests.rewards.world import pictures

CPU = ComputeSettings(device="cpu", threads=1)
PROMPTS = ["red fox", "sea", "a tree", "sea", "red fox"]


@pytest.fixture
def scorer(trained: tuple[Path, dict[str, float]]) -> ModelScorer:
    return ModelScorer.build(ModelScorerSettings(), CPU, trained[0])


def test_pixels_that_are_bytes_score_as_bytes(scorer: ModelScorer) -> None:
    images = pictures(5, 1)
    assert torch.equal(scorer.score(images.float() / 255, PROMPTS), scorer.score(images, PROMPTS))


def test_resizing_differs_by_its_rounding_alone(scorer: ModelScorer) -> None:
    images = pictures(5, 2).repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)[..., 4:]
    pixels = images.float() / 255
    bytes_scored, scored = scorer.score(images, PROMPTS), scorer.score(pixels, PROMPTS)
    assert not torch.equal(scored, bytes_scored)
    torch.testing.assert_close(scored, bytes_scored, atol=0.02, rtol=0)
    # What differs between pictures is far more than that.
    assert float(bytes_scored.std()) > 0.2


@pytest.mark.parametrize("size", [16, 40])
def test_gradients_are_those_of_finite_differences(
    trained: tuple[Path, dict[str, float]], size: int
) -> None:
    scorer = ModelScorer(load_reward_model(trained[0] / "models/reward").double())
    generator = torch.Generator().manual_seed(size)
    pixels = 0.2 + 0.6 * torch.rand((3, 3, size, size), generator=generator, dtype=torch.float64)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def value(pixels: torch.Tensor) -> torch.Tensor:
        return (weight * scorer.score(pixels, PROMPTS[:3])).sum()

    (slope,) = torch.autograd.grad(value(pixels.requires_grad_()), pixels)
    for _ in range(3):
        direction = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (value(pixels + side * 1e-5 * direction) for side in (1, -1))
        expected = float(ahead - behind) / 2e-5
        assert abs(expected) > 1e-3
        assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4)


def test_a_reward_depends_on_its_own_picture_alone(scorer: ModelScorer) -> None:
    images = pictures(35, 3).float() / 255
    prompts = [PROMPTS[number % 5] for number in range(35)]
    scored = scorer.score(images.requires_grad_(), prompts)
    # The last pass is filled up with copies of row 34, whose gradient must not count them.
    (slope,) = torch.autograd.grad(scored[33], images, retain_graph=True)
    assert slope[33].any() and not slope[:33].any() and not slope[34].any()
    (slope,) = torch.autograd.grad(scored[34], images)
    alone = images.detach()[34:].requires_grad_()
    (expected,) = torch.autograd.grad(scorer.score(alone, prompts[34:])[0], alone)
    torch.testing.assert_close(slope[34:], expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(scorer.score(alone, prompts[34:]), scored[34:])


def test_frozen_text_is_kept_without_a_graph(scorer: ModelScorer) -> None:
    for _ in range(2):
        pixels = (pictures(2, 4).float() / 255).requires_grad_()
        scorer.score(pixels, ["sea", "sea"]).sum().backward()
        assert pixels.grad is not None and bool(pixels.grad.any())
    assert list(scorer._text) == ["sea"]
    assert not scorer._text["sea"].requires_grad
    assert all(parameter.grad is None for parameter in scorer._model.parameters())


class Brightness:
    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        assert images.dtype == torch.float32
        return images.double().mean(dim=(1, 2, 3))


class Forgetful(Brightness):
    @torch.no_grad()
    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return super().score(images, prompts)


class BlackBox:
    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        assert images.dtype == torch.uint8
        return images.double().mean(dim=(1, 2, 3))


def plug(name: str, differentiable: bool = True) -> PythonScorerSettings:
    return PythonScorerSettings(callable=f"{__name__}:{name}", differentiable=differentiable)


def test_a_plug_through_which_gradients_flow(tmp_path: Path) -> None:
    scorer = build_scorer(plug("Brightness"), CPU, tmp_path)
    pixels = torch.full((2, 3, 4, 4), 0.25, requires_grad=True)
    scored = scorer.score(pixels, ["", ""])
    assert scorer.differentiable
    assert scored.dtype == torch.float32
    assert scored.tolist() == [0.25, 0.25]
    (slope,) = torch.autograd.grad(scored[0], pixels)
    assert slope[0].unique().tolist() == pytest.approx([1 / 48])
    assert not slope[1].any()
    # It is given floats for bytes too: 51 is a fifth of 255.
    images = torch.full((1, 3, 4, 4), 51, dtype=torch.uint8)
    assert scorer.score(images, [""]).tolist() == pytest.approx([0.2])


def test_a_black_box_is_given_bytes_and_gives_no_graph(tmp_path: Path) -> None:
    scorer = build_scorer(plug("BlackBox", differentiable=False), CPU, tmp_path)
    assert not scorer.differentiable
    scored = scorer.score(torch.full((2, 3, 4, 4), 0.2, requires_grad=True), ["", ""])
    assert scored.tolist() == [51.0, 51.0]
    assert not scored.requires_grad


def test_a_plug_that_loses_the_gradient_is_refused(tmp_path: Path) -> None:
    scorer = build_scorer(plug("Forgetful"), CPU, tmp_path)
    pixels = torch.zeros(2, 3, 4, 4)
    assert scorer.score(pixels, ["", ""]).tolist() == [0, 0]
    with pytest.raises(GuardError, match="Forgetful: loses the gradient"):
        scorer.score(pixels.requires_grad_(), ["", ""])


def test_no_graph_is_kept_where_none_is_asked_for(tmp_path: Path) -> None:
    scorer = build_scorer(plug("Brightness"), CPU, tmp_path)
    pixels = torch.zeros(2, 3, 4, 4, requires_grad=True)
    with torch.no_grad():
        assert not scorer.score(pixels, ["", ""]).requires_grad
    assert not scorer.score(pixels.detach(), ["", ""]).requires_grad
