"""From which weight on a planted shortcut is refused: `python -m benchmarks.audit --root PROJECT`.

The project has drawn its preferences (`konomi run --stage preferences`, or `rewards`). Two honest
rewards are audited, the miniature's CLIP as it is and, where it has been trained, the project's own
reward model; then each of them plus a growing weight of the saturation of the picture, both in
units of their spread among the images of one prompt, and saturation alone. The result is
`benchmarks/results/audit.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.contracts.artifacts import write_json
from components.contracts.image_statistics import saturation
from components.contracts.plugins import build_judge
from components.contracts.protocols import Judge, Scorer
from components.contracts.seeds import torch_generator
from components.contracts.settings import load_block
from components.contracts.stage import git_revision
from components.rewards.audit.audit import AuditReport, audit
from components.rewards.audit.data import Candidates, read_candidates
from components.rewards.audit.looking import look
from components.rewards.audit.run import PREFERENCES
from components.rewards.audit.sensitivity import spread
from components.rewards.backbones import load_reward_model
from components.rewards.backbones.two_towers import TwoTowers
from components.rewards.scorers.model import ModelScorer
from components.rewards.settings import AuditSettings, Settings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "audit.json"
CLIP, MODEL = "components/miniature/clip", "models/reward"
SEED = 7
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.5, 2.0, 4.0)


class Remembered:
    """A judge or a scorer that answers a second time without looking.

    Every audit here sees the same pictures in the same batches.
    """

    def __init__(self, asked: Scorer | Judge) -> None:
        self._asked = asked
        self.differentiable = False
        self._known: dict[bytes, Tensor] = {}

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """What is said of the images, asked once."""
        digest = hashlib.sha256(images.numpy().tobytes()).digest()
        if digest not in self._known:
            self._known[digest] = self._asked.score(images, prompts)
        return self._known[digest]


class RememberedJudge(Remembered):
    """A judge that answers a second time without looking."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self.correct, self.error_rate = judge.correct, judge.error_rate


class Saturated:
    """A reward plus a weight of saturation, each divided by its spread; None: saturation alone."""

    differentiable = False

    def __init__(self, honest: Scorer | None, spreads: tuple[float, float], weight: float) -> None:
        self._honest, self._spreads, self._weight = honest, spreads, weight

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The mixture, float32 [b]."""
        loved = self._weight * saturation(images) / self._spreads[1]
        if self._honest is None:
            return loved
        return self._honest.score(images, prompts) / self._spreads[0] + loved


def main() -> int:
    """Audit every mixture, print a line each, write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.audit", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="a project with preferences")
    root = parser.parse_args().root
    torch.set_num_threads(1)
    started = time.monotonic()
    settings = load_block(root / "params.yaml", "rewards", Settings).audit
    if settings is None:
        parser.error("rewards.audit is null in params.yaml")
    data = read_candidates(root / PREFERENCES, settings.max_prompts, SEED)
    judge = RememberedJudge(build_judge(settings.judge))
    rewards = {
        "saturation": None,
        CLIP: ModelScorer(TwoTowers.open(ROOT / CLIP, torch_generator(0))),
    }
    if (root / MODEL).is_dir():
        rewards[MODEL] = ModelScorer(load_reward_model(root / MODEL))
    found = {
        name: _mixtures(Remembered(reward) if reward else None, judge, data, settings, name)
        for name, reward in rewards.items()
    }
    write_json(
        RESULTS,
        {
            "git_revision": git_revision(ROOT),
            "machine": {"system": platform.machine(), "cpus": os.cpu_count()},
            "seconds": round(time.monotonic() - started, 1),
            "num_prompts": len(data.prompts),
            "num_images": len(data.images),
            "settings": settings.model_dump(),
            "refused_from": {name: refused_from(found[name]) for name in rewards if rewards[name]},
            "mixtures": found,
        },
    )
    return 0


def refused_from(mixtures: Sequence[dict[str, Any]]) -> float | None:
    """The smallest weight from which on every larger one is refused; None where the last passes."""
    least = None
    for mixture in reversed(mixtures):
        if mixture["passed"]:
            break
        least = mixture["weight"]
    return least


def _mixtures(
    honest: Scorer | None,
    judge: Judge,
    data: Candidates,
    settings: AuditSettings,
    name: str,
) -> list[dict[str, Any]]:
    def spread_of(scorer: Scorer) -> float:
        return spread(look(data.images, data.texts, scorer.score, name), data.prompt_of)

    spreads = spread_of(honest) if honest else 1.0, spread_of(Saturated(None, (1.0, 1.0), 1.0))
    rows = []
    for weight in WEIGHTS if honest else (1.0,):
        mixed = Saturated(honest, spreads, weight)
        report = audit(mixed, judge, data, settings, torch_generator(SEED, "audit"))
        rows.append({"weight": weight, **_row(report)})
        checks = ", ".join(f"{check.name} {check.figure:.2f}" for check in report.checks)
        verdict = "refused" if report.failed else "passed"
        print(f"{name} + {weight} saturation: {verdict} ({checks})", flush=True)
    return rows


def _row(report: AuditReport) -> dict[str, Any]:
    return {
        "passed": not report.failed,
        "failed": [check.name for check in report.failed],
        "captured": report.best_of_n.captured.value,
        **{check.name + "_figure": check.figure for check in report.checks},
        "sentences": [check.sentence for check in report.failed],
    }


if __name__ == "__main__":
    sys.exit(main())
