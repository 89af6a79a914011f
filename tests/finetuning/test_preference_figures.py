"""What the methods on preferences report of an update, against errors computed one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from components.contracts.seeds import torch_generator
from components.diffusion import Policy
from components.finetuning.algorithms import cpo, dco, diffusion_dpo, kto
from components.finetuning.batches import DesirableSamples, PreferencePairs
from components.finetuning.denoising_errors import Errors, Noised, noised, noised_pairs
from components.finetuning.interfaces import LossOutput, Method
from tests.finetuning.conftest import METHODS
from tests.finetuning.test_step_pairs import move

BETA = 40.0
"""Large enough that logits of a tiny policy are no rounding error."""


class Samples(NamedTuple):
    """Errors of single samples, as plain numbers."""

    policy: list[float]
    reference: list[float]
    kl: list[float]

    @property
    def gain(self) -> list[float]:
        return [before - now for now, before in zip(self.policy, self.reference, strict=True)]


@pytest.fixture
def one_batch(build, policy):
    """A method on a policy that has moved, and its first batch of at least three pairs."""

    def _one_batch(name: str, **settings: Any) -> tuple[Method, Any]:
        policy.batch_size = 6
        made = build(METHODS[name] | {"dpo_beta": BETA, "calibrate": None} | settings)
        move(policy)
        collected = made.experience.collect(policy, torch_generator(0, "round"))
        return made, next(iter(collected.updates))[0]

    return _one_batch


def update(made: Method, policy: Policy, batch: Any) -> dict[str, float]:
    """Loss and figures at the noise of one generator."""
    output: LossOutput = made.algorithm.loss(policy, batch, torch_generator(0, "noise"))
    return {"loss": output.loss.item()} | {k: float(v) for k, v in output.metrics.items()}


@torch.no_grad()
def errors_of(policy: Policy, samples: Noised) -> Samples:
    """Mean squares of each row at the same noise."""

    def distance(a: Tensor, b: Tensor) -> list[float]:
        return [float(((x - y) ** 2).mean()) for x, y in zip(a, b, strict=True)]

    ours, base = (
        policy.predict_at(samples.x_t, samples.level, samples.conditioning, adapter)
        for adapter in ("train", "reference")
    )
    return Samples(
        distance(ours, samples.target), distance(base, samples.target), distance(ours, base)
    )


def of_pairs(policy: Policy, batch: PreferencePairs) -> tuple[Samples, Samples]:
    """Winners and losers."""
    found = errors_of(policy, noised_pairs(policy, batch, torch_generator(0, "noise"), "training"))
    half = len(batch)
    return Samples(*(part[:half] for part in found)), Samples(*(part[half:] for part in found))


def of_samples(policy: Policy, batch: DesirableSamples, source: Any = "training") -> Samples:
    generator = torch_generator(0, "noise")
    rows = noised(policy, batch.x0, batch.conditioning, generator, source=source)
    return errors_of(policy, rows)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_figures_of_dpo(one_batch, policy):
    made, batch = one_batch("diffusion_dpo", noise_levels="training", pairs={"source": "people"})
    found, (won, lost) = update(made, policy, batch), of_pairs(policy, batch)
    margins = [w - x for w, x in zip(won.gain, lost.gain, strict=True)]
    assert len(margins) == 3
    assert found == pytest.approx(
        {
            "loss": mean([-math.log(sigmoid(BETA * m)) for m in margins]),
            "implicit_acc": mean([float(m > 0) for m in margins]),
            "logit": BETA * mean(margins),
            "logit_size": BETA * mean([abs(m) for m in margins]),
            "gain_w": mean(won.gain),
            "gain_l": mean(lost.gain),
            "kl": mean(won.kl + lost.kl),
        },
        rel=1e-3,
        abs=1e-6,
    )


def test_figures_of_cpo(one_batch, policy):
    made, batch = one_batch("cpo", noise_levels="training", winner_weight=0.5)
    found, (won, lost) = update(made, policy, batch), of_pairs(policy, batch)
    gaps = [x - w for w, x in zip(won.policy, lost.policy, strict=True)]
    assert len(gaps) == 3
    assert found == pytest.approx(
        {
            "loss": mean([-math.log(sigmoid(BETA * g)) for g in gaps]) + 0.5 * mean(won.policy),
            "implicit_acc": mean([float(g > 0) for g in gaps]),
            "logit": BETA * mean(gaps),
            "logit_size": BETA * mean([abs(g) for g in gaps]),
            "error_w": mean(won.policy),
            "error_l": mean(lost.policy),
        },
        rel=1e-3,
        abs=1e-6,
    )


@pytest.mark.parametrize("average", ["after_sigmoid", "before_sigmoid"])
def test_figures_of_dco(one_batch, policy, average):
    made, batch = one_batch("dco", noise_levels="training", average=average)
    found, samples = update(made, policy, batch), of_samples(policy, batch)
    gains = samples.gain
    gates = [mean(gains)] if average == "before_sigmoid" else gains
    assert len(gains) == 5
    assert found == pytest.approx(
        {
            "loss": mean([-math.log(sigmoid(BETA * g)) for g in gates]),
            "logit": BETA * mean(gains),
            "gate": mean([sigmoid(-BETA * g) for g in gains]),
            "gain_w": mean(gains),
            "kl": mean(samples.kl),
        },
        rel=1e-3,
        abs=1e-6,
    )


def test_figures_of_kto(one_batch, policy):
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5, "desirable_share": 0.8}
    made, batch = one_batch("kto", noise_levels="training", **weights)
    found, samples = update(made, policy, batch), of_samples(policy, batch)
    gains, liked = samples.gain, batch.desirable.tolist()
    assert (sum(liked), len(liked)) == (4, 5)
    baseline = max(0.0, mean(gains))
    margins = [(1 if good else -1) * (g - baseline) for g, good in zip(gains, liked, strict=True)]
    parts = [
        (1.5 if good else 0.5) * (1 - sigmoid(BETA * m))
        for m, good in zip(margins, liked, strict=True)
    ]
    assert found == pytest.approx(
        {
            "loss": mean(parts),
            "implicit_acc": mean([float(m > 0) for m in margins]),
            "logit_size": BETA * mean([abs(g) for g in gains]),
            "gain_w": mean([g for g, good in zip(gains, liked, strict=True) if good]),
            "gain_l": mean([g for g, good in zip(gains, liked, strict=True) if not good]),
            "kl": mean(samples.kl),
        },
        rel=1e-3,
        abs=1e-6,
    )


def test_figures_of_sft(build, policy):
    policy.batch_size = 6
    made = build(METHODS["sft"])
    move(policy)
    (batch,) = next(iter(made.experience.collect(policy, torch_generator(0, "round")).updates))
    samples = of_samples(policy, batch, "sampler")
    assert len(samples.policy) == 6
    error = mean(samples.policy)
    assert update(made, policy, batch) == pytest.approx({"loss": error, "error_w": error}, rel=1e-5)


def test_what_the_temperature_is_calibrated_by():
    found = Errors(
        policy=torch.tensor([1.0, 2.0, 10.0, 30.0]),
        reference=torch.tensor([4.0, 8.0, 15.0, 37.0]),
        kl=torch.zeros(4),
    )
    # Winners are the first half: gains (3, 6) and (5, 7).
    assert diffusion_dpo.margin(found).tolist() == [-2.0, -1.0]
    assert cpo.margin(found).tolist() == [9.0, 28.0]
    assert dco.gain(found).tolist() == kto.gain(found).tolist() == [3.0, 6.0, 5.0, 7.0]
