"""Do a reward model's mended labels withstand people who err? `python -m benchmarks.label_noise`

On the preferences of three worlds (seeds 7, 8, 9: a split of prompts, images and judgements each) a
share of the decided training and validation labels is turned round, on top of what the simulated
people do by themselves; the test labels stay as people gave them. Each architecture is trained on
them twice, by plain Bradley-Terry and by the full recipe, with all else alike: backbone, epochs,
rate, over-fitting stop, seed. The figure is accuracy on the test pairs, prompts that nothing was
trained on; intervals resample whole prompts, both arms of a prompt together.

Beside it stands what the people's own noise allows: the accuracy of somebody who knows the mean
utility of each image to all annotators, and not what a coin decided.

Runs are kept in `.work/label_noise` and are not made again; an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.claims import worlds
from benchmarks.claims.plots import BLUE, GREY, ORANGE, save
from components.contracts.artifacts import read_json, write_json
from components.contracts.seeds import numpy_generator, torch_generator
from components.contracts.settings import load_block, read_params
from components.contracts.stage import git_revision
from components.miniature import people as miniature_people
from components.rewards.backbones import open_backbone
from components.rewards.dataset import Pairs, Preferences, read_preferences
from components.rewards.fit import Trainer, pair_margin
from components.rewards.freezing import set_trainable
from components.rewards.settings import (
    BackboneSettings,
    EnsembleSettings,
    LearningCurveSettings,
    ObjectiveSettings,
    PromptClassificationSettings,
    Settings,
)
from components.rewards.states import States
from components.rewards.train import train, train_on, trained_prompts

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/label_noise.json"
PLOT = ROOT / "docs/label_noise.png"
WORK = ROOT / ".work/label_noise"
SEEDS = (7, 8, 9)
FLIPS = (0.0, 0.1, 0.2, 0.3, 0.4)
NUM_RESAMPLES = 4000

FULL = ObjectiveSettings(
    label_smoothing=0.05,
    data_smoothing=0.1,
    annotators="reliability",
    prompt_classification=PromptClassificationSettings(),
    ensemble=EnsembleSettings(members=4),
)
"""Everything there is against wrong labels, at its defaults but for four members."""
OBJECTIVES = {"plain": ObjectiveSettings(), "full": FULL}

_SHARED: dict[str, Any] = {
    "batch_size": 128,
    "horizontal_flip": True,
    "learning_curve": LearningCurveSettings(shares=()),
}
BACKBONES = {
    "frozen_mlp": Settings(
        backbone=BackboneSettings(
            architecture="frozen_mlp", source="components/miniature/clip", trainable="heads"
        ),
        epochs=6,
        learning_rate=1e-3,
        **_SHARED,
    ),
    "two_towers": Settings(
        backbone=BackboneSettings(source="components/miniature/clip", trainable="heads"),
        epochs=10,
        learning_rate=3e-4,
        **_SHARED,
    ),
}
TITLES = {
    "frozen_mlp": "an MLP on frozen embeddings",
    "two_towers": "two towers, from CLIP's cosine",
}
"""The MLP learns all that it knows of preference from the labels; two towers start from CLIP's
cosine, which is a fair reward here before any label."""


def turned_round(data: Preferences, share: float, seed: int) -> Preferences:
    """The same data with a share of the training and validation labels turned round."""
    splits = dict(data.splits)
    for split in ("train", "validation"):
        pairs = splits[split]
        generator = torch_generator(seed, "flips", split)
        turned = torch.rand(len(pairs), generator=generator) < share
        preference = torch.where(turned, 1 - pairs.preference, pairs.preference)
        splits[split] = replace(pairs, preference=preference)
    return replace(data, splits=splits)


def correct(margin: Float[Tensor, " n"], pairs: Pairs) -> list[float | None]:
    """1 where the preferred image scores higher, 0 where lower, 1/2 at a draw; None for a tie."""
    signed = torch.where(pairs.preference > 0.5, margin, -margin)
    right = (signed.sign() + 1) / 2
    return [
        None if preference == 0.5 else value
        for value, preference in zip(right.tolist(), pairs.preference.tolist(), strict=True)
    ]


def run_world(architecture: str, seed: int) -> list[dict[str, Any]]:
    """All levels and both objectives of an architecture in one world; none is made twice."""
    settings = BACKBONES[architecture]
    folder = worlds.prepare(seed, quick=False)
    model = open_backbone(
        architecture, ROOT / settings.backbone.source, torch_generator(seed, "backbone")
    ).eval()
    model.symmetric = settings.horizontal_flip
    data = read_preferences(folder / "data/preferences", model.preprocessing.resize)
    named = set_trainable(model, settings.backbone, torch_generator(seed, "lora"))
    # The towers do not learn: their states are the same at every level and in every arm.
    states = States(model, data, cache_megabytes=2048)
    start = Trainer(model, named, data, states, settings).start()
    runs = []
    for share in FLIPS:
        noisy = turned_round(data, share, seed)
        for arm, objective in OBJECTIVES.items():
            chosen = settings.model_copy(update={"objective": objective})
            path = WORK / f"{_identity(chosen, seed, share)}.json"
            if not path.exists():
                trainer = Trainer(model, named, noisy, states, chosen)
                trainer.go_back(start)
                prompts = trained_prompts(noisy, objective)
                train_on(prompts, trainer, torch_generator(seed, "training"), arm)
                pairs = data.splits["test"]
                margin = pair_margin(trainer.states, pairs, "scoring test images")
                right = correct(margin, pairs)
                write_json(path, {"right": right, "prompt": _prompts(data, pairs)})
            kept = read_json(path)
            runs.append({"seed": seed, "flips": share, "arm": arm, **kept})
            print(f"{architecture} seed {seed} flips {share:.0%} {arm}: {_mean(kept['right']):.3f}")
    return runs


def shipped(seed: int) -> float:
    """Accuracy of the reward model that params.yaml asks for, on the labels as people gave them."""
    settings = load_block(ROOT / "params.yaml", "rewards", Settings)
    folder = worlds.prepare(seed, quick=False)
    chosen = settings.model_copy(update={"learning_curve": LearningCurveSettings(shares=())})
    backbone = settings.backbone
    source = ROOT / backbone.source
    model = open_backbone(backbone.architecture, source, torch_generator(seed, "backbone")).eval()
    model.symmetric = settings.horizontal_flip
    data = read_preferences(folder / "data/preferences", model.preprocessing.resize)
    training = train(model, data, chosen, torch_generator(seed, "training"))
    return training.curve[-1].accuracy.value


def ceiling(seed: int) -> dict[str, float]:
    """What the people's own noise allows on the test pairs of a world, and what was reached.

    `expected` is the accuracy of always naming the image with the higher mean chance to win, over
    the labels that chance could have given; `here` the accuracy of the mean utility on the labels
    that it did give. `shipped` is the accuracy of the reward model of params.yaml.
    """
    folder = worlds.prepare(seed, quick=False)
    people = miniature_people.build(
        **read_params(folder / "params.yaml")["preferences"]["people"]["arguments"]
    )
    data = read_preferences(folder / "data/preferences", lambda image: image)
    pairs = data.splits["test"]
    images = torch.cat([pairs.image_a, pairs.image_b]).unique()
    place = torch.full((len(data.images),), -1)
    place[images] = torch.arange(len(images))
    pixels = data.images.pixels(images)
    prompts = [data.prompts[int(row)] for row in data.prompt_of[images]]
    utility = torch.stack(
        [people.utility(pixels, prompts, number) for number in range(len(people.names))]
    )
    gap = utility[:, place[pairs.image_a]] - utility[:, place[pairs.image_b]]
    flips = people.flip_probability
    chance = torch.sigmoid(gap / people.temperature)
    chance = (1 - flips) * chance + flips * (1 - chance)
    decided = (gap.abs() >= people.tie_threshold).float()
    mean = (chance * decided).sum(0) / decided.sum(0).clamp_min(1e-9)
    asked = pairs.preference != 0.5
    return {
        "test_pairs": int(asked.sum()),
        "expected": float(torch.maximum(mean, 1 - mean)[asked].mean()),
        "here": _mean(correct(gap.mean(0), pairs)),
        "shipped": shipped(seed),
    }


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per level: each arm's accuracy over all worlds, and full minus plain with its interval."""
    levels = []
    for share in FLIPS:
        arms = {
            arm: [run for run in runs if run["flips"] == share and run["arm"] == arm]
            for arm in OBJECTIVES
        }
        sums = {arm: _by_prompt(found) for arm, found in arms.items()}
        value = {arm: float(_shares(found[None])[0]) for arm, found in sums.items()}
        rng = numpy_generator(0, "label noise", str(share))
        count = len(sums["plain"])
        drawn = rng.integers(0, count, (NUM_RESAMPLES, count))
        samples = {arm: _shares(values[drawn]) for arm, values in sums.items()}
        levels.append(
            {
                "flips": share,
                **{
                    arm: {
                        "accuracy": value[arm],
                        "interval": _interval(samples[arm]),
                        "by_seed": [_mean(run["right"]) for run in arms[arm]],
                    }
                    for arm in sums
                },
                "difference": {
                    "value": float(
                        _shares(sums["full"][None])[0] - _shares(sums["plain"][None])[0]
                    ),
                    "interval": _interval(samples["full"] - samples["plain"]),
                },
            }
        )
    return levels


def _by_prompt(runs: list[dict[str, Any]]) -> np.ndarray:
    """Right pairs and decided pairs of each prompt of each world, [p, 2]."""
    found: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        for prompt, right in zip(run["prompt"], run["right"], strict=True):
            if right is not None:
                cell = found.setdefault((run["seed"], prompt), [0.0, 0.0])
                cell[0] += right
                cell[1] += 1
    return np.array([found[key] for key in sorted(found)])


def _shares(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0].sum(-1) / sums[..., 1].sum(-1)


def _interval(samples: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(samples, [0.025, 0.975])]


def _identity(settings: Settings, seed: int, share: float) -> str:
    decides = json.dumps([settings.model_dump(mode="json"), seed, share], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()[:16]


def _prompts(data: Preferences, pairs: Pairs) -> list[int]:
    return data.prompt_of[pairs.image_a].tolist()


def _mean(right: list[float | None]) -> float:
    decided = [value for value in right if value is not None]
    return sum(decided) / len(decided)


def draw(result: dict[str, Any], path: Path) -> None:
    """One panel an architecture: accuracy over the share of labels turned round."""
    from matplotlib import pyplot as plt

    names = list(result["architectures"])
    drawn, axes = plt.subplots(
        1, len(names), figsize=(9, 3.4), layout="constrained", squeeze=False, sharey=True
    )
    allowed = 100 * float(np.mean([found["expected"] for found in result["ceiling"].values()]))
    for panel, name in zip(axes[0], names, strict=True):
        for arm, colour, meaning in (
            ("plain", ORANGE, "plain Bradley-Terry"),
            ("full", BLUE, "full recipe"),
        ):
            levels = result["architectures"][name]["levels"]
            x = [100 * level["flips"] for level in levels]
            accuracy = [100 * level[arm]["accuracy"] for level in levels]
            panel.plot(x, accuracy, "o-", color=colour, label=meaning)
            low, high = zip(*(level[arm]["interval"] for level in levels), strict=True)
            panel.fill_between(
                x, 100 * np.array(low), 100 * np.array(high), color=colour, alpha=0.15
            )
        panel.axhline(allowed, color=GREY, linestyle="--", linewidth=1)
        panel.annotate(
            "what people's noise allows",
            (0, allowed),
            (0, 3),
            textcoords="offset points",
            color=GREY,
            fontsize=8,
        )
        panel.set_title(TITLES[name], loc="left", fontsize=10)
        panel.set_xlabel("training labels turned round, %")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("held-out pairs right, %")
    axes[0][-1].legend(frameon=False, loc="lower left")
    save(drawn, path)


def main() -> int:
    """Run what is missing, then write the json and the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_noise", description=__doc__)
    parser.add_argument("--architectures", nargs="+", choices=list(BACKBONES), default=[*BACKBONES])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {
        name: [run for seed in SEEDS for run in run_world(name, seed)]
        for name in options.architectures
    }
    allowed = {str(seed): ceiling(seed) for seed in SEEDS}
    result = {
        "git_revision": git_revision(ROOT),
        "seeds": list(SEEDS),
        "test_pairs": sum(
            right is not None
            for run in next(iter(found.values()))
            if run["flips"] == 0 and run["arm"] == "plain"
            for right in run["right"]
        ),
        "ceiling": allowed,
        # Over all pairs of the three worlds.
        "shipped_share_of_ceiling": sum(
            found["shipped"] * found["test_pairs"] for found in allowed.values()
        )
        / sum(found["expected"] * found["test_pairs"] for found in allowed.values()),
        "architectures": {
            name: {
                "settings": BACKBONES[name].model_dump(mode="json"),
                "levels": summary(runs),
            }
            for name, runs in found.items()
        },
        "full": FULL.model_dump(mode="json"),
    }
    write_json(RESULT, result)
    draw(result, PLOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
