"""What D3PO and SPO collect: pairs of steps as they were taken, and in the right order."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from components.contracts.errors import SettingsError
from components.contracts.seeds import torch_generator
from components.finetuning.algorithms.d3po import D3POSettings, StepPreference
from components.finetuning.labels import RewardLabels
from tests.finetuning.conftest import METHODS
from tests.finetuning.plugs import Redness

D3PO = METHODS["d3po"]
SPO, STEPWISE = METHODS["spo"], METHODS["spo_stepwise"]


def updates(made, policy, round_number=0):
    collected = made.experience.collect(policy, torch_generator(0, "round", round_number))
    return collected, list(collected.updates)


def move(policy, scale=0.1):
    """An adapter that does something."""
    generator = torch_generator(0, "B")
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def test_d3po_offers_all_pairs_of_each_prompt_at_all_steps(build, policy):
    made = build(D3PO)
    collected, (batches,) = updates(made, policy)
    # Two prompts with three pairs each, two steps; a batch of four rows holds one group.
    assert [len(batch) for batch in batches] == [3] * 4
    assert sorted(batch.step.unique().tolist() for batch in batches) == [[0], [0], [1], [1]]
    assert (collected.num_images, collected.metrics["pairs"]) == (6, 6.0)
    for batch in batches:
        assert torch.equal(batch.origin, torch.arange(3))
        # Every image is in a pair with each other one; one wins twice, one loses twice.
        assert sorted(torch.bincount(batch.winner, minlength=3).tolist()) == [0, 1, 2]


def test_d3po_pairs_are_real_steps_and_the_redder_image_wins(build, policy):
    made = build(D3PO | {"prompts_per_round": 1})
    _, (batches,) = updates(made, policy)
    last = next(batch for batch in batches if int(batch.step[0]) == policy.sampler.num_steps - 1)
    redness = Redness().score(policy.decode(last.x_prev), [""] * 3)
    assert bool((redness[last.winner] > redness[last.loser]).all())
    first = next(batch for batch in batches if int(batch.step[0]) == 0)
    assert torch.equal(first.x_prev, last.x_t)
    # Likely under the policy that took them: a step of another image would be far out.
    step = policy.transition(first.x_t, first.step, first.conditioning)
    z = (first.x_prev - step.mean) / step.std
    assert 0.8 < float(z.detach().std()) < 1.2


def test_a_batch_holds_several_groups_side_by_side(build, policy):
    policy.batch_size = 7
    _, (batches,) = updates(build(D3PO), policy)
    # Four units of a group and a step, two of which fit into seven rows.
    assert [len(batch) for batch in batches] == [6, 6]
    for batch in batches:
        assert len(batch.x_t) == 6
        groups = torch.tensor([0, 0, 0, 1, 1, 1])
        assert torch.equal(groups[batch.winner], groups[batch.loser])
        prompts = batch.conditioning.prompt_of_row
        assert len(prompts[:3].unique()) == len(prompts[3:].unique()) == 1


def test_binary_labels_leave_ties_out(build, policy):
    # Images of at least the median of three are good: two of them.
    collected, (batches,) = updates(build(D3PO | {"order": "binary"}), policy)
    assert [len(batch) for batch in batches] == [2] * 4
    assert (collected.metrics["pairs"], collected.metrics["ties"]) == (4.0, 2.0)
    assert collected.metrics["good"] == pytest.approx(2 / 3)


def test_people_who_like_everything_teach_nothing(build, policy):
    labels = {"source": "reward", "good_above": 0.0}
    collected, found = updates(build(D3PO | {"order": "binary", "labels": labels}), policy)
    assert (found, collected.metrics["ties"]) == ([], 6.0)


def test_flips_that_nothing_would_come_of_are_refused():
    flips = RewardLabels(flip_probability=0.1)
    with pytest.raises(ValidationError, match="asks for neither: use order binary"):
        D3POSettings(labels=flips)
    assert D3POSettings(labels=flips, order="binary").labels == flips


def test_labels_are_counted_over_rounds_and_resumes(build, policy):
    first, second = build(D3PO), build(D3PO)
    updates(first, policy)
    second.experience.load_state(first.experience.state())
    collected, _ = updates(second, policy, 1)
    assert collected.metrics["labels"] == 12.0


def test_the_loss_is_that_of_the_pairs_one_by_one(build, policy):
    made = build(D3PO)
    _, (batches,) = updates(made, policy)
    move(policy)
    batch = batches[0]
    output = made.algorithm.loss(policy, batch, torch_generator(0))
    with torch.no_grad():
        ours, base = (
            policy.transition(batch.x_t, batch.step, batch.conditioning, adapter)
            for adapter in ("train", "reference")
        )
        log_ratio = ours.log_prob_per_dim(batch.x_prev) - base.log_prob_per_dim(batch.x_prev)
    low, high = math.log(0.9), math.log(1.1)
    expected = 0.0
    for winner, loser in zip(batch.winner, batch.loser, strict=True):
        margin = log_ratio[winner].clamp(low, high) - log_ratio[loser].clamp(low, high)
        expected += math.log(1 + math.exp(-0.1 * float(margin))) / len(batch)
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-6)
    winners, losers = log_ratio[batch.winner], log_ratio[batch.loser]
    sides = torch.cat([winners, losers])
    outside = (sides < low) | (sides > high)
    assert not any(value.requires_grad for value in output.metrics.values())
    assert {name: float(value) for name, value in output.metrics.items()} == pytest.approx(
        {
            "implicit_acc": float((winners > losers).float().mean()),
            "reference_log_ratio_w": float(winners.mean()),
            "reference_log_ratio_l": float(losers.mean()),
            "ratio_deviation_max": max(abs(math.exp(value) - 1) for value in sides.tolist()),
            "clip_fraction": float(outside.float().mean()),
        },
        rel=1e-4,
        abs=1e-7,
    )


def test_a_policy_far_from_the_reference_is_clipped_and_learns_nothing(build, policy):
    _, (batches,) = updates(build(D3PO), policy)
    move(policy, 3.0)
    output = StepPreference(0.1, 1e-6).loss(policy, batches[0], torch_generator(0))
    assert float(output.metrics["clip_fraction"]) == 1.0
    output.loss.backward()
    gradients = [parameter.grad for _, parameter in policy.trainable_parameters()]
    assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_updates_raise_the_winners(build, policy):
    made = build(D3PO | {"prompts_per_round": 2})
    _, (batches,) = updates(made, policy)
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        for batch in batches:
            made.algorithm.loss(policy, batch, torch_generator(0)).loss.backward()
        optimizer.step()
    after = [made.algorithm.loss(policy, batch, torch_generator(0)).metrics for batch in batches]
    margins = [float(m["reference_log_ratio_w"] - m["reference_log_ratio_l"]) for m in after]
    assert sum(margins) > 0
    assert sum(float(m["implicit_acc"]) for m in after) / len(after) > 0.6


def test_spo_pairs_share_their_latent_and_the_redder_prediction_wins(build, policy):
    made = build(SPO | {"num_candidates": 3, "pairs_per_update": 99})
    collected, (batches,) = updates(made, policy)
    # Three images with two noisy steps, each of which gives a pair at a threshold of 0.
    assert sum(len(batch) for batch in batches) == 6
    assert collected.metrics["told_apart"] == 1.0
    assert (collected.num_images, collected.metrics["scored_images"]) == (3, 18.0)
    pairs = [(batch, row) for batch in batches for row in range(len(batch))]
    for batch, row in pairs:
        assert int(batch.origin[batch.winner[row]]) == int(batch.origin[batch.loser[row]]) == row
        step = int(batch.step[row])
        both = batch.x_prev[torch.stack([batch.winner[row], batch.loser[row]])]
        if step + 1 < policy.sampler.num_steps:
            with torch.no_grad():
                output = policy.predict(both, step + 1, batch.conditioning[[row, row]])
            both = policy.sampler.level(step + 1, 2).predict(output, both)[0]
        winner, loser = Redness().score(policy.decode(both), ["", ""]).tolist()
        assert winner > loser


@pytest.mark.parametrize("method", [STEPWISE], ids=["spo_stepwise"])
def test_a_chain_by_hand(build, policy, method, monkeypatch):
    experience = build(method).experience
    shown, honest = [], experience.scorer.score
    monkeypatch.setattr(
        experience.scorer, "score", lambda *asked: (shown.append(asked[0]), honest(*asked))[1]
    )
    prompt = torch.tensor([2])
    pairs, images = experience._chains(policy, prompt, [5])
    text, chance = experience.text[prompt], torch.Generator().manual_seed(5)

    def noise(count):
        return torch.randn((count, *policy.latent_shape), generator=chance)

    with torch.no_grad():
        # Step 0 is taken as it comes, 1 and 2 have three candidates each, 3 has no noise.
        x_t = policy.transition(noise(1), 0, text).sample(noise(1))
        gone_on = []
        for row, step in enumerate((1, 2)):
            taken = policy.transition(x_t, step, text)
            candidates = taken.mean + taken.std * noise(3)
            output = policy.predict(candidates, step + 1, text[[0, 0, 0]])
            level = policy.sampler.level(step + 1, 3)
            # Judged by the predicted clean image, not by the noisy one.
            images_of = policy.decode(level.predict(output, candidates)[0])
            assert int((images_of.int() - shown[row].int()).abs().max()) <= 1
            assert int((images_of.int() - policy.decode(candidates).int()).abs().max()) > 1
            scores = Redness().score(images_of, [""] * 3) * (1.5 - level.noise.flatten())
            assert int(pairs.step[row]) == step
            torch.testing.assert_close(pairs.x_t[row], x_t[0])
            torch.testing.assert_close(pairs.x_prev_w[row], candidates[scores.argmax()])
            torch.testing.assert_close(pairs.x_prev_l[row], candidates[scores.argmin()])
            chosen = torch.randint(3, (1,), generator=chance)
            gone_on.append(int(chosen))
            x_t = candidates[chosen]
        assert gone_on != [0, 0]
        x0 = policy.transition(x_t, 3, text).mean
    difference = (policy.decode(x0).int() - images.int()).abs().max()
    assert int(difference) <= 1


def test_a_threshold_keeps_only_what_is_told_apart(build, policy):
    everything = updates(build(SPO), policy)[0].metrics["pairs"]
    collected, found = updates(build(SPO | {"threshold": 0.99}), policy)
    assert (collected.metrics["pairs"], found) == (0.0, [])
    # Scores on a larger scale are told apart with more certainty.
    scaled = build(SPO | {"threshold": 0.99, "score_scale": 1e6})
    assert updates(scaled, policy)[0].metrics["pairs"] == everything == 6.0


@pytest.mark.parametrize("method", [STEPWISE], ids=["spo_stepwise"])
def test_candidates_start_late_and_end_where_the_noise_does(build, policy, method):
    collected, (batches,) = updates(build(method), policy)
    # Four steps, the last one deterministic: candidates at 1 and 2, for two images.
    steps = torch.cat([batch.step for batch in batches])
    assert sorted(steps.tolist()) == [1, 1, 2, 2]
    assert collected.metrics["scored_images"] == 12.0


@pytest.mark.parametrize("method", [STEPWISE], ids=["spo_stepwise"])
def test_a_step_scorer_is_told_how_noisy_each_image_is(build, policy, method, monkeypatch):
    from tests.finetuning.plugs import StepRedness

    told = []

    def score(self, images, prompts, noise):
        told.extend(noise.tolist())
        return Redness().score(images, prompts)

    monkeypatch.setattr(StepRedness, "score", score)
    updates(build(method), policy)
    level = policy.sampler.level(torch.tensor([2, 3]), 2).noise.flatten().tolist()
    assert told == pytest.approx([level[0]] * 6 + [level[1]] * 6)


@pytest.mark.parametrize("method", [STEPWISE], ids=["spo_stepwise"])
def test_starting_after_the_noise_is_refused(build, method):
    with pytest.raises(SettingsError, match=r"start_step 3 leaves no step .* allowed: 0 to 2"):
        build(method | {"start_step": 3})


def test_a_step_scorer_that_is_none_is_refused(build):
    plug = {"callable": "tests.finetuning.plugs:no_judge"}
    with pytest.raises(SettingsError, match="a NoJudge without a method 'score'"):
        build(SPO | {"step_scorer": plug})


def test_more_steps_before_the_candidates_than_there_are_is_refused_when_settings_load():
    from components.finetuning.algorithms.spo import SPOSettings

    assert SPOSettings(start_step=7).requires().min_steps == 8
