"""How much of a round's gradient is signal: what one round and the next agree on.

    python -m benchmarks.gradient_signal

Each method computes the gradient of several independent rounds of 96 images at the base model, with
its own experience and its own loss. Two figures tell what these gradients are worth: their cosine
with one another (signal, and whatever else all rounds share), and their cosine with the gradient of
the mean reward through the sampling that the LoRA will be used with, which needs a differentiable
reward and is itself an estimate: its own two halves are told too. A random direction has a cosine
of 0 with a spread of about 1 / sqrt(parameters). The result is
`benchmarks/results/gradient_signal.json`; a world of `benchmarks.claims` lends the reward model.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.claims import worlds
from benchmarks.claims.runs import read_profile
from components.contracts.artifacts import write_json
from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings, load_run
from components.contracts.stage import git_revision
from components.diffusion import load_policy
from components.finetuning.interfaces import Method, MethodContext
from components.finetuning.prompt_pool import PromptPool
from components.finetuning.settings import Settings
from components.rewards.scorers import build_scorer

RESULTS = worlds.ROOT / "benchmarks" / "results" / "gradient_signal.json"
SEED = 7
ROUNDS = 4
NUM_PROMPTS = 12
"""Of a round, eight images each; as many single images has a half of the reference."""
EIGHT_STEPS = {"num_steps": 8, "noise_level": 0.7}
CASES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("ddpo", {}, {}),
    ("flow_grpo", EIGHT_STEPS, {"shared_noise": False}),
    ("flow_grpo", EIGHT_STEPS, {}),
    ("flow_grpo", {}, {}),
    ("mix_grpo", {}, {}),
    ("nft", {}, {}),
)
"""Profile, changes of its base, changes of its method."""


def main() -> int:
    """Measure every case, print a line each, write the file."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.gradient_signal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    world = worlds.prepare(SEED, quick=False)
    torch.set_num_threads(1)
    references: dict[str, list[Tensor]] = {}
    cases = []
    for profile, base_changes, method_changes in CASES:
        settings, base = _profile(profile, base_changes, method_changes)
        plain = base.without_sde()
        key = plain.model_dump_json()
        if key not in references:
            references[key] = _reference(plain, world)
        context = _context(settings, base, world)
        method = settings.method.build(context)
        rounds = [_gradient(method, context, number) for number in range(ROUNDS)]
        cases.append(
            {
                "profile": profile,
                "base": base_changes,
                "method": method_changes,
                "parameters": rounds[0].numel(),
                "between_rounds": _between(rounds),
                "with_reference": _with(rounds, torch.stack(references[key]).sum(0)),
                "reference_halves": _between(references[key]),
            }
        )
        print(_line(cases[-1]), file=sys.stderr, flush=True)
    write_json(
        RESULTS,
        {
            "git_revision": git_revision(worlds.ROOT),
            "seed": SEED,
            "images_per_round": NUM_PROMPTS * 8,
            "rounds": ROUNDS,
            "cases": cases,
        },
    )
    return 0


def _profile(
    name: str, base_changes: dict[str, Any], method_changes: dict[str, Any]
) -> tuple[Settings, BaseSettings]:
    blocks = read_profile(name)
    method = blocks["finetuning"]["method"] | {"prompts_per_round": NUM_PROMPTS} | method_changes
    settings = Settings.model_validate({"rounds": 1, "method": method})
    return settings, BaseSettings.model_validate(blocks["base"] | base_changes)


def _context(settings: Settings, base: BaseSettings, world: Path) -> MethodContext:
    """A policy with an adapter that does nothing yet, and what a method builds upon."""
    run = load_run(world / "params.yaml")
    policy = load_policy(base, run.compute)
    lora, generator = settings.lora, partial(torch_generator, run.seed)
    policy.add_adapter(lora.rank, lora.alpha, lora.targets, generator=generator("lora"))
    scorer = build_scorer(settings.reward, run.compute, world)
    pool = PromptPool.read(world / "data" / "prompts" / "train.parquet")
    return MethodContext(policy, pool, scorer, base.batch_size, world, generator)


def _reference(base: BaseSettings, world: Path) -> list[Tensor]:
    """Gradients of the mean reward through all steps, of two halves of as many images as a
    round."""
    method = {
        "name": "draft",
        "grad_steps": base.num_steps,
        "prompts_per_update": NUM_PROMPTS * 8,
        "group_size": 1,
        "updates_per_round": 1,
    }
    settings = Settings.model_validate({"rounds": 1, "method": method})
    context = _context(settings, base, world)
    built = settings.method.build(context)
    return [_gradient(built, context, number) for number in range(2)]


def _gradient(method: Method, context: MethodContext, number: int) -> Tensor:
    """Of the mean loss over all that a round offers, at the base model: one vector.

    The adapter's A has no gradient while B is zero, and is left out.
    """
    policy = context.policy
    collected = method.experience.collect(policy, context.generator("collect", number))
    batches = [batch for update in collected.updates for batch in update]
    total = sum(len(batch) for batch in batches)
    noise = context.generator("updates", number)
    parameters = [value for name, value in policy.trainable_parameters() if "lora_B" in name]
    for parameter in parameters:
        parameter.grad = None
    for batch in batches:
        loss = method.algorithm.loss(policy, batch, noise).loss
        (loss * (len(batch) / total)).backward()
    return torch.cat([_of(parameter).flatten() for parameter in parameters])


def _of(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a LoRA weight took no part in the loss")
    return parameter.grad


def _between(gradients: Sequence[Tensor]) -> float:
    pairs = [_cosine(a, b) for a, b in itertools.combinations(gradients, 2)]
    return sum(pairs) / len(pairs)


def _with(gradients: Sequence[Tensor], reference: Tensor) -> list[float]:
    return [_cosine(gradient, reference) for gradient in gradients]


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def _line(case: dict[str, Any]) -> str:
    changes = {**case["base"], **case["method"]}
    mean = sum(case["with_reference"]) / ROUNDS
    return (
        f"{case['profile']:10s} between rounds {case['between_rounds']:+.3f}, "
        f"with the reference {mean:+.3f}  {changes or ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
