"""On-policy rounds: which images, which steps, what is remembered, and what never comes in."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from components.contracts.errors import SettingsError
from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings, RunSettings
from components.finetuning.algorithms.dance_grpo import DanceGRPOSettings
from components.finetuning.algorithms.ddpo import DDPOSettings
from components.finetuning.algorithms.flow_dppo import FlowDPPOSettings
from components.finetuning.algorithms.flow_grpo import FlowGRPOSettings
from components.finetuning.algorithms.grpo_guard import GRPOGuardSettings
from components.finetuning.algorithms.mix_grpo import MixGRPOSettings
from components.finetuning.algorithms.rlcm import RLCMSettings
from components.finetuning.experience.drawing import Drawn, draw
from components.finetuning.experience.on_policy import (
    OnPolicy,
    PromptTracker,
    RoundBaseline,
    every_step,
    random_fraction,
    random_steps,
)
from components.finetuning.experience.scoring import Scored
from components.finetuning.requirements import check
from components.finetuning.settings import Settings
from tests.finetuning.conftest import METHODS, block
from tests.finetuning.plugs import Redness


def rows_of(batches: list[Any]) -> list[tuple[int, int, float]]:
    """(image, step, advantage) of every transition; images are told apart by x_t alone."""
    return [
        (hash(tuple(x_t.flatten().tolist())), int(step), float(advantage))
        for batch in batches
        for x_t, step, advantage in zip(batch.x_t, batch.step, batch.advantage, strict=True)
    ]


def collect(experience: OnPolicy, policy, number: int = 0):
    collected = experience.collect(policy, torch_generator(0, "round", number))
    return collected, [list(batches) for batches in collected.updates]


def test_a_pass_is_divided_by_images_and_shows_every_transition_once(build, policy):
    method = METHODS["ddpo"] | {"group_size": 3, "updates_per_epoch": 2, "inner_epochs": 2}
    collected, updates = collect(build(method).experience, policy)
    assert collected.num_images == 6
    assert len(updates) == 4
    # Half of the six images with both of their steps, in micro-batches of base.batch_size rows.
    assert [[len(batch) for batch in batches] for batches in updates] == [[4, 2]] * 4
    first, second = ([*rows_of(updates[n]), *rows_of(updates[n + 1])] for n in (0, 2))
    assert len(set(first)) == 12
    assert sorted(first) == sorted(second)
    assert first != second
    for batches in updates:
        # An image's steps are in one update, and they share its advantage.
        counts = Counter(advantage for _, _, advantage in rows_of(batches))
        assert set(counts.values()) == {2}
        assert {step for _, step, _ in rows_of(batches)} == {0, 1}


def test_transitions_are_those_of_this_round_alone(build, policy):
    experience = build(METHODS["ddpo"]).experience
    seen = []
    for number in (0, 1):
        _, updates = collect(experience, policy, number)
        seen.append({row[0] for batches in updates for row in rows_of(batches)})
    assert len(seen[0]) == len(seen[1]) == 8
    assert not seen[0] & seen[1]


def test_stored_log_probs_are_those_of_the_transitions(build, policy):
    _, updates = collect(build(METHODS["ddpo"]).experience, policy)
    for batch in updates[0]:
        step = policy.transition(batch.x_t, batch.step, batch.conditioning)
        assert torch.equal(step.log_prob_per_dim(batch.x_prev), batch.log_prob_old)
        assert batch.mean_old is None


@pytest.mark.parametrize(
    "method", [METHODS["grpo_guard"], METHODS["flow_dppo"]], ids=["grpo_guard", "flow_dppo"]
)
def test_means_of_the_old_policy_are_kept_where_they_are_needed(build, policy, method):
    _, updates = collect(build(method).experience, policy)
    for batch in updates[0]:
        step = policy.transition(batch.x_t, batch.step, batch.conditioning)
        assert torch.equal(step.mean, batch.mean_old)


def test_random_steps_are_distinct_and_drawn_for_each_image():
    generator = torch_generator(0)
    found = random_steps(2)((1, 4, 7), 300, generator)
    assert found.shape == (300, 2)
    assert bool((found[:, 0] != found[:, 1]).all())
    counts = Counter(found.flatten().tolist())
    assert set(counts) == {1, 4, 7}
    assert all(150 < count < 250 for count in counts.values())
    assert sorted(random_steps(9)((1, 4, 7), 1, generator)[0].tolist()) == [1, 4, 7]
    assert every_step((1, 4, 7), 2, generator).tolist() == [[1, 4, 7], [1, 4, 7]]


@pytest.mark.parametrize(("fraction", "count"), [(0.6, 3), (0.79, 3), (1.0, 5), (0.1, 1)])
def test_a_share_of_the_steps_is_rounded_down(fraction, count):
    assert random_fraction(fraction)(range(5), 4, torch_generator(0)).shape == (4, count)


def test_ddpo_on_random_steps_draws_them_anew_in_each_pass(build, policy):
    method = METHODS["ddpo"] | {"train_steps": 1, "inner_epochs": 6, "updates_per_epoch": 1}
    _, updates = collect(build(method).experience, policy)
    assert [sum(len(batch) for batch in batches) for batches in updates] == [4] * 6
    assert len({frozenset(rows_of(batches)) for batches in updates}) > 1


def drawn_of(prompt: list[int]) -> Drawn:
    """A round of which a baseline looks at the prompts only."""
    place = torch.tensor(prompt)
    group = place.unique(return_inverse=True)[1]
    count = len(prompt)
    nothing = torch.zeros(count, 1)
    images = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    return Drawn(torch.zeros(count, 1, 1, 1, 1), nothing, images, place, group, [""] * count)


def test_the_tracker_compares_with_earlier_rounds():
    tracker = PromptTracker(num_prompts=3, buffer_size=3, min_count=3)
    first = tracker.advantages(torch.tensor([0.0, 2.0, 10.0]), drawn_of([0, 0, 2]))
    # Too little is known of either prompt: mean 4 of the round, deviations (-4, -2, 6), √(56/3).
    expected = torch.tensor([-4.0, -2.0, 6.0]) / (56 / 3) ** 0.5
    torch.testing.assert_close(first.values, expected)
    second = tracker.advantages(torch.tensor([4.0, 5.0]), drawn_of([0, 1]))
    # Prompt 0 has seen 0, 2, 4: mean 2, √(8/3). Prompt 1 is compared with 4 and 5.
    torch.testing.assert_close(second.values, torch.tensor([2 / (8 / 3) ** 0.5, 1.0]))
    assert (bool(second.kept.all()), second.num_dropped_groups) == (True, 0)
    # Restored, it goes on as if nothing had been; and the oldest reward is forgotten.
    other = PromptTracker(3, 3, 3)
    other.load_state(tracker.state())
    for going_on in (tracker, other):
        third = going_on.advantages(torch.tensor([6.0]), drawn_of([0]))
        # 2, 4, 6.
        torch.testing.assert_close(third.values, torch.tensor([2 / (8 / 3) ** 0.5]))


def test_groups_without_variance_are_left_out_and_counted(build, policy):
    class OneGroupVaries(Redness):
        def score(self, images, prompts):
            rewards = super().score(images, prompts)
            rewards[:2] = 1.0
            return rewards

    method = METHODS["dance_grpo_unet"] | {"train_fraction": 1.0, "updates_per_epoch": 1}
    collected, updates = collect(build(method, OneGroupVaries()).experience, policy)
    assert collected.metrics["dropped_groups"] == 1.0
    assert collected.num_images == 4
    assert len(rows_of(updates[0])) == 2 * policy.sampler.num_steps
    assert all(advantage != 0 for _, _, advantage in rows_of(updates[0]))


def test_a_round_without_any_variance_in_its_groups_has_no_update(build, policy):
    class OnePrompt(Redness):
        def score(self, images, prompts):
            return torch.tensor([1.0, 1.0, 2.0, 2.0])

    collected, updates = collect(build(METHODS["dance_grpo_unet"], OnePrompt()).experience, policy)
    assert (collected.metrics["dropped_groups"], updates) == (2.0, [])


def test_advantages_are_clipped(build, policy):
    class OneIsBest(Redness):
        def score(self, images, prompts):
            return torch.tensor([0.0, 0.0, 10.0, 0.0])

    method = METHODS["ddpo_sf"] | {"advantage_clip": 1.0}
    _, updates = collect(build(method, OneIsBest()).experience, policy)
    # Mean 2.5, deviation √18.75: the best would have 1.73.
    found = sorted(advantage for _, _, advantage in rows_of(updates[0]))
    assert found == pytest.approx([-2.5 / 18.75**0.5] * 3 + [1.0])


@pytest.mark.parametrize("shared", [True, False])
def test_images_of_a_prompt_may_start_from_the_same_noise(build, policy, shared):
    method = METHODS["dance_grpo_unet"] | {
        "train_fraction": 1.0,
        "updates_per_epoch": 1,
        "shared_noise": shared,
    }
    _, updates = collect(build(method).experience, policy)
    starts = [x for batch in updates[0] for x in batch.x_t[batch.step == 0]]
    prompts = [int(p) for b in updates[0] for p in b.conditioning.prompt_of_row[b.step == 0]]
    assert len(starts) == 4 and len(set(prompts)) == 2
    for i, j in combinations(range(4), 2):
        assert torch.equal(starts[i], starts[j]) == (shared and prompts[i] == prompts[j])
    # What follows is noisy, and differs.
    later = [x for batch in updates[0] for x in batch.x_t[batch.step == 1]]
    assert len({tuple(x.flatten().tolist()) for x in later}) == 4
    assert max(abs(float(x.std()) - 1) for x in starts) < 0.2


@pytest.mark.parametrize("method", [METHODS["mix_grpo"]], ids=["mix_grpo"])
def test_the_window_of_mix_grpo_moves_from_round_to_round(build, policy, method):
    experience = build(method).experience
    for number, step in enumerate((0, 1, 0)):
        collected, updates = collect(experience, policy, number)
        assert {row[1] for batches in updates for row in rows_of(batches)} == {step}
        assert collected.metrics["first_noisy_step"] == step
    resumed = build(method).experience
    resumed.load_state(experience.state())
    assert collect(resumed, policy, 3)[0].metrics["first_noisy_step"] == 1
    assert collect(resumed, policy, 4)[0].metrics["first_noisy_step"] == 0


@pytest.mark.parametrize("shared", [True, False])
def test_no_tripwire_watches_a_diversity_that_the_window_decides(build, policy, shared):
    experience = build(METHODS["mix_grpo"] | {"shared_noise": shared}).experience
    for number in range(2):
        collected, _ = collect(experience, policy, number)
        assert ("diversity" in collected.drift) is not shared
        # It is told all the same.
        assert {**collected.metrics, **collected.drift}["diversity"] > 0


@pytest.mark.parametrize("method", [METHODS["mix_grpo"]], ids=["mix_grpo"])
def test_outside_of_the_window_mix_grpo_follows_the_ode(build, policy, method):
    experience = build(method).experience
    settings, context = experience.settings, experience.context
    drawn = draw(
        context,
        policy,
        experience.text,
        [0, 1],
        settings.group_size,
        torch_generator(0),
        sampler=experience.sampler(1),
    )
    # The second round's window is step 1: steps 0 and 2 are Euler's, with nothing to be scored.
    text = experience.text[drawn.prompt]
    ode = policy.sampler.noisy_only_at([])
    for step in (0, 2):
        expected = policy.transition(drawn.latents[:, step], step, text, sampler=ode).mean
        assert torch.equal(drawn.latents[:, step + 1], expected)
    assert drawn.log_probs.isnan().any(0).tolist() == [True, False, True]


def test_pieces_can_be_handed_in(build, policy):
    context = build(METHODS["ddpo"]).experience.context
    settings = DDPOSettings(prompts_per_round=2, group_size=2, updates_per_epoch=1)
    start = torch.zeros(4, *policy.latent_shape)
    seen = []

    def reward(drawn: Drawn, generator: torch.Generator) -> Scored:
        seen.append(drawn)
        values = torch.tensor([1.0, 2.0, 3.0, 5.0])
        return Scored(values, values)

    experience = OnPolicy(
        settings,
        context,
        RoundBaseline("raw"),
        choose=random_steps(1),
        sampler=lambda number: policy.sampler.noisy_only_at([number]),
        reward=reward,
        start=lambda places, generator: start,
    )
    for number in (0, 1):
        collected, ((batch,),) = collect(experience, policy, number)
        assert batch.step.tolist() == [number] * 4
        assert sorted(batch.advantage.tolist()) == [1.0, 2.0, 3.0, 5.0]
        assert collected.metrics["reward"] == 2.75
        assert torch.equal(seen[number].latents[:, 0], start)
    assert experience.state().keys() == {"rounds"}


def test_defaults_are_the_released_ones():
    ddpo, rlcm = DDPOSettings(), RLCMSettings()
    assert ddpo.prompts_per_round * ddpo.group_size == 256
    assert (ddpo.learning_rate, ddpo.clip_range, ddpo.advantage_clip) == (3e-4, 1e-4, 5.0)
    assert (ddpo.buffer_size, ddpo.min_count, ddpo.updates_per_epoch) == (32, 16, 2)
    assert (rlcm.learning_rate, rlcm.max_grad_norm, rlcm.advantage_clip) == (1e-4, 5.0, 10.0)
    assert rlcm.requires().families == ("consistency",)
    flow = FlowGRPOSettings()
    assert flow.prompts_per_round * flow.group_size == 48 * 24
    assert (flow.kl_weight, flow.kl, flow.advantage) == (0.04, "step_weighted", "group_global_std")
    mix = MixGRPOSettings()
    assert (mix.window_size, mix.stride, mix.rounds_per_window) == (4, 1, 25)
    assert GRPOGuardSettings().clip_range == 2e-6
    assert FlowDPPOSettings().max_divergence == 1e-5
    assert (DanceGRPOSettings().train_fraction, DanceGRPOSettings().shared_noise) == (0.6, True)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            {"name": "ddpo", "min_count": 17, "buffer_size": 16},
            "more than the buffer_size rewards",
        ),
        (
            {"name": "ddpo", "estimator": "score_function"},
            "inner_epochs 1 and updates_per_epoch 1",
        ),
        ({"name": "flow_grpo", "group_size": 1}, "greater than or equal to 2"),
        ({"name": "mix_grpo", "window_size": 0}, "greater than or equal to 1"),
        ({"name": "dance_grpo", "train_fraction": 0.0}, "greater than 0"),
        ({"name": "flow_dppo", "clip_range": 0.1}, "clip_range"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(method, message):
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate_json(json.dumps(block(method)))


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("flow_grpo", {"family": "unet"}, "defined for flow models, base.path is a unet"),
        ("grpo_guard", {"family": "unet"}, "defined for flow models"),
        ("flow_dppo", {"family": "consistency"}, "defined for flow models"),
        ("mix_grpo", {"family": "unet"}, "defined for flow models"),
        ("dance_grpo", {"family": "consistency"}, "defined for unet and flow models"),
        ("rlcm", {"family": "flow"}, "defined for consistency models"),
        ("rlcm", {"family": "consistency", "num_steps": 1}, "only step is deterministic"),
        ("flow_grpo", {"family": "flow", "noise_level": 0.0}, "noise_level 0 is an ODE"),
        ("mix_grpo", {"family": "flow", "num_steps": 4}, "num_steps of at least 5, got 4"),
        ("ddpo", {"family": "unet", "eta": 0.0}, "eta 0 is a deterministic sampler"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_when_settings_load(base_folders, name, base, message):
    settings = Settings.model_validate_json(json.dumps(block({"name": name})))
    path = str(base_folders(base.pop("family")))
    run = RunSettings(base=BaseSettings(path=path, **{"num_steps": 9} | base))
    with pytest.raises(SettingsError, match=f"method {name} .*{message}"):
        check(settings, run)
