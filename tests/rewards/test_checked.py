"""What no scorer is given, and what no scorer may give: every one that `build_scorer` makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.errors import DataError, GuardError, KonomiError, QuarantinedData
from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings
from components.rewards.backbones import load_reward_model
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import (
    ModelScorerSettings,
    PythonScorerSettings,
    ScorerSettings,
)
from tests.rewards.world import pictures

CPU = ComputeSettings(device="cpu", threads=1)


def planted(images: torch.Tensor, prompts: Sequence[str], *, fault: str) -> Any:
    """A plug with one fault."""
    honest = images.float().flatten(1).mean(1)
    faults: dict[str, Callable[[], Any]] = {
        "none": lambda: honest,
        "one number for all": lambda: honest.mean(),
        "one too few": lambda: honest[1:],
        "a column": lambda: honest[:, None],
        "a list too long": lambda: [*honest.tolist(), 1.0],
        "words": lambda: ["good"] * len(images),
        "nothing": lambda: None,
        "nan": lambda: torch.cat([honest[:1], honest[1:] * math.nan]),
        "infinite": lambda: torch.cat([honest[:1], honest[1:] / 0]),
        "too large for float32": lambda: torch.cat([honest[:1], honest[1:]]).double() * 1e300,
    }
    return faults[fault]()


def plug(fault: str = "none", *, differentiable: bool = False) -> PythonScorerSettings:
    return PythonScorerSettings(
        callable=f"{__name__}:planted", arguments={"fault": fault}, differentiable=differentiable
    )


SCORERS: dict[str, ScorerSettings] = {
    "model": ModelScorerSettings(),
    "a black box": plug(),
    "a plug with a gradient": plug(differentiable=True),
}


@pytest.fixture(scope="module", params=SCORERS)
def scorer(request: pytest.FixtureRequest, trained: tuple[Path, dict[str, float]]) -> Scorer:
    return build_scorer(SCORERS[request.param], CPU, trained[0])


IMAGES = pictures(2, 0)
WRONG_IMAGES = {
    "floats in [-1, 1]": (IMAGES.float() / 127.5 - 1, "image values from -"),
    "floats in [0, 255]": (IMAGES.float(), "image values from .* to 2"),
    "a nan": (torch.full((2, 3, 16, 16), math.nan), "image values from nan to nan"),
    "no batch": (IMAGES[0], r"images of shape \[3, 16, 16\]"),
    "channels last": (IMAGES.permute(0, 2, 3, 1), r"images of shape \[2, 16, 16, 3\]"),
    "an alpha channel": (
        torch.cat([IMAGES, IMAGES[:, :1]], 1),
        r"images of shape \[2, 4, 16, 16\]",
    ),
    "integers": (IMAGES.int(), r"images of type torch\.int32"),
}


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_images_of_another_kind_are_refused(scorer: Scorer, wrong: str) -> None:
    images, message = WRONG_IMAGES[wrong]
    allowed = r"; allowed: uint8, or float in \[0, 1\], of shape \[b, 3, h, w\]"
    with pytest.raises(DataError, match=f"^reward .*: {message}.*{allowed}"):
        scorer.score(images, ["red fox", "sea"])


def test_every_image_has_its_prompt(scorer: Scorer) -> None:
    with pytest.raises(DataError, match="2 images and 1 prompts; allowed: one prompt an image"):
        scorer.score(IMAGES, ["red fox"])


def test_bytes_and_floats_score_alike(scorer: Scorer) -> None:
    of_bytes = scorer.score(IMAGES, ["red fox", "sea"])
    of_floats = scorer.score(IMAGES.float() / 255, ["red fox", "sea"])
    torch.testing.assert_close(of_bytes, of_floats)
    assert of_bytes.dtype == of_floats.dtype == torch.float32
    assert of_bytes[0] != of_bytes[1]
    assert scorer.score(IMAGES[:0], []).shape == (0,)


WRONG_SCORES = {
    "one number for all": (GuardError, r"scored 2 images with numbers of shape \[\]"),
    "one too few": (GuardError, r"scored 2 images with numbers of shape \[1\]"),
    "a column": (GuardError, r"scored 2 images with numbers of shape \[2, 1\]"),
    "a list too long": (GuardError, r"scored 2 images with numbers of shape \[3\]"),
    "words": (GuardError, "scored 2 images with a list that holds no numbers"),
    "nothing": (GuardError, "scored 2 images with a NoneType that holds no numbers"),
    "nan": (QuarantinedData, "1 of 2 rewards are not finite, the first is nan for 'sea'"),
    "infinite": (QuarantinedData, "1 of 2 rewards are not finite, the first is inf for 'sea'"),
    "too large for float32": (QuarantinedData, "2 of 2 rewards are not finite, the first is inf"),
}


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("fault", WRONG_SCORES)
def test_scores_that_are_none_are_refused(fault: str, differentiable: bool, tmp_path: Path) -> None:
    kind, message = WRONG_SCORES[fault]
    scorer = build_scorer(plug(fault, differentiable=differentiable), CPU, tmp_path)
    with pytest.raises(kind, match=f"{__name__}:planted.*{message}"):
        scorer.score(IMAGES, ["red fox", "sea"])


def test_a_model_whose_weights_are_broken_is_noticed(
    trained: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    model = load_reward_model(trained[0] / "models/reward")
    with torch.no_grad():
        model.clip.visual_projection.weight.fill_(math.nan)
    model.save(tmp_path / "models/reward")
    scorer = build_scorer(ModelScorerSettings(), CPU, tmp_path)
    with pytest.raises(QuarantinedData, match="reward model: 2 of 2 rewards are not finite"):
        scorer.score(IMAGES, ["red fox", "sea"])


def test_every_error_is_one_line(tmp_path: Path) -> None:
    for fault in WRONG_SCORES:
        with pytest.raises(KonomiError) as refused:
            build_scorer(plug(fault), CPU, tmp_path).score(IMAGES, ["red\nfox", "the\nsea"])
        assert "\n" not in str(refused.value)
