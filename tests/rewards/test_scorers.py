"""The shelf: choosing a scorer, and the promise that a score does not depend on the batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from components.contracts.errors import ModelError, SettingsError
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import ScorerSettings, build_scorer
from components.rewards.scorers.settings import ModelScorerSettings, PythonScorerSettings
from tests.rewards.world import pictures, redness

CPU = ComputeSettings(device="cpu", threads=1)


class Brightness:
    """A scorer as a user may write one; scores in float64 on purpose."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return images.double().mean(dim=(1, 2, 3)) + self.offset


def inverted(images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
    """A plain function, numbers in a list."""
    return [255 - float(image.float().mean()) for image in images]


def words(
    images: torch.Tensor, prompts: Sequence[str], *, weight: float = 1.0
) -> numpy.ndarray[Any, Any]:
    """A plain function, numbers in an array."""
    return numpy.array([weight * len(prompt.split()) for prompt in prompts], dtype=numpy.float16)


def maker(sign: float) -> Callable[[torch.Tensor, Sequence[str]], torch.Tensor]:
    """A function that makes a function."""
    return lambda images, prompts: sign * images.float().mean(dim=(1, 2, 3))


def plug(name: str, **arguments: object) -> PythonScorerSettings:
    return PythonScorerSettings(callable=f"{__name__}:{name}", arguments=arguments)


def test_settings_are_told_apart_by_name() -> None:
    adapter = TypeAdapter(ScorerSettings)
    model = adapter.validate_python({"name": "model", "path": "models/reward"})
    assert isinstance(model, ModelScorerSettings)
    python = adapter.validate_python({"name": "python", "callable": "a.b:c"})
    assert isinstance(python, PythonScorerSettings)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValidationError, match="expected tags: 'model', 'python'"):
        TypeAdapter(ScorerSettings).validate_python({"name": "oracle"})


def test_settings_are_light_to_import() -> None:
    program = (
        "import sys, components.rewards.settings, components.rewards.scorers\n"
        "assert not {'torch', 'transformers', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture(scope="module")
def scored(trained: tuple[Path, dict[str, float]]) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    images = pictures(70, 5)
    prompts = [("red fox", "sea", "a tree")[number % 3] for number in range(70)]
    scorer = build_scorer(ModelScorerSettings(), CPU, trained[0])
    return images, prompts, scorer.score(images, prompts)


def test_the_trained_model_scores_by_what_it_learnt(
    scored: tuple[torch.Tensor, list[str], torch.Tensor],
) -> None:
    images, _, scores = scored
    assert scores.shape == (70,)
    assert scores.dtype == torch.float32
    assert float(torch.corrcoef(torch.stack([scores, redness(images)]))[0, 1]) > 0.8


def test_rewards_are_about_standard_normal(
    scored: tuple[torch.Tensor, list[str], torch.Tensor],
) -> None:
    assert abs(float(scored[2].mean())) < 0.4
    assert 0.6 < float(scored[2].std()) < 1.5


@pytest.mark.parametrize("size", [1, 3, 32, 50])
def test_a_score_does_not_depend_on_the_batch(
    trained: tuple[Path, dict[str, float]],
    scored: tuple[torch.Tensor, list[str], torch.Tensor],
    size: int,
) -> None:
    images, prompts, scores = scored
    scorer = build_scorer(ModelScorerSettings(), CPU, trained[0])
    parts = [
        scorer.score(images[start : start + size], prompts[start : start + size])
        for start in range(0, 70, size)
    ]
    assert torch.equal(torch.cat(parts), scores)


def test_no_images_have_no_scores(trained: tuple[Path, dict[str, float]]) -> None:
    scorer = build_scorer(ModelScorerSettings(), CPU, trained[0])
    assert scorer.score(pictures(2, 0)[:0], []).shape == (0,)


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="models/reward: no such model folder"):
        build_scorer(ModelScorerSettings(), CPU, tmp_path)


def test_an_object_of_ones_own(tmp_path: Path) -> None:
    images = torch.full((2, 3, 4, 4), 10, dtype=torch.uint8)
    scores = build_scorer(plug("Brightness", offset=5.0), CPU, tmp_path).score(images, ["", ""])
    assert scores.dtype == torch.float32
    assert scores.tolist() == [15.0, 15.0]


@pytest.mark.parametrize(
    ("settings", "scores"),
    [
        (plug("inverted"), [245.0, 245.0]),
        (plug("words"), [2.0, 0.0]),
        (plug("words", weight=3.0), [6.0, 0.0]),
        (plug("maker", sign=-1.0), [-10.0, -10.0]),
    ],
)
def test_a_function_of_images_and_prompts(
    settings: PythonScorerSettings, scores: list[float], tmp_path: Path
) -> None:
    images = torch.full((2, 3, 4, 4), 10, dtype=torch.uint8)
    found = build_scorer(settings, CPU, tmp_path).score(images, ["red fox", ""])
    assert found.dtype == torch.float32
    assert found.tolist() == scores


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (plug("Brightness", height=3), "refuses its arguments: .*height"),
        (plug("pictures", count=1, seed=0), "gives a Tensor without a method 'score'"),
        (plug("words", height=3), "refuses its arguments: .*height"),
        (plug("Darkness"), "no callable 'Darkness'"),
    ],
)
def test_an_object_that_cannot_score(
    settings: PythonScorerSettings, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        build_scorer(settings, CPU, tmp_path)
