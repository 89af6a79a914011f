"""Rounds of whole trajectories and whole groups, and losses on them in two passes."""

from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.contracts.seeds import torch_generator
from components.finetuning.algorithms.prdp import PRDP, PRDPSettings
from components.finetuning.batches import TrajectoryGroups
from components.finetuning.losses import reward_difference
from components.finetuning.two_pass import in_two_passes, score_again, score_with_reference
from tests.finetuning.conftest import METHODS
from tests.finetuning.plugs import Redness

PRDP_CASE = METHODS["prdp"]


def collected(build, policy, scorer=None, **changes):
    """A round's method, its figures and its updates."""
    method = build(PRDP_CASE | changes, scorer)
    found = method.experience.collect(policy, torch_generator(0, "round", 0))
    return method, found, list(found.updates)


def disturb(policy, size=0.1):
    """Move the adapter away from zero, so that no ratio is 1."""
    generator = torch_generator(0, "B")
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def gradient_of(policy, loss):
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])


def naive_log_probs(policy, batch: TrajectoryGroups, adapter="train"):
    """Every step of every trajectory in one graph."""
    columns = []
    for step in batch.steps.tolist():
        taken = policy.transition(batch.latents[:, step], step, batch.conditioning, adapter)
        columns.append(taken.log_prob_per_dim(batch.latents[:, step + 1]))
    return torch.stack(columns, 1)


@torch.no_grad()
def naive_kl(policy, batch: TrajectoryGroups) -> float:
    """Mean over images and steps of the KL to the reference, per dimension."""
    found = []
    for step in batch.steps.tolist():
        ours, base = (
            policy.transition(batch.latents[:, step], step, batch.conditioning, adapter)
            for adapter in ("train", "reference")
        )
        found.append((((ours.mean - base.mean) / ours.std) ** 2).mean(dim=(1, 2, 3)) / 2)
    return float(torch.stack(found).mean())


def naive_prdp(policy, batch, settings):
    log_prob = naive_log_probs(policy, batch)
    with torch.no_grad():
        reference = naive_log_probs(policy, batch, "reference")
    return reward_difference.prdp_loss(
        log_prob - reference,
        batch.log_prob_old - reference,
        batch.reward,
        batch.group,
        settings.regression_beta,
        settings.clip_range,
        settings.step_reduction,
    )


def test_a_round_is_what_was_drawn(build, policy):
    _, found, updates = collected(
        build, policy, prompts_per_round=3, group_size=2, updates_per_epoch=1
    )
    ((batch,),) = updates
    assert found.num_images == len(batch) == 6
    assert batch.steps.tolist() == list(policy.sampler.stochastic_steps)
    assert batch.latents.shape == (6, policy.sampler.num_steps + 1, *policy.latent_shape)
    # Rewards are those of these images, log-probs those of these steps, for these prompts.
    images = policy.decode(batch.latents[:, -1])
    assert torch.equal(Redness().score(images, [""] * 6), batch.reward)
    assert torch.equal(naive_log_probs(policy, batch), batch.log_prob_old)
    assert batch.group.bincount().tolist() == [2, 2, 2]
    for group in range(3):
        assert len(set(batch.conditioning.prompt_of_row[batch.group == group].tolist())) == 1


def test_every_pass_sees_every_group_once_and_splits_none(build, policy):
    _, _, updates = collected(
        build, policy, prompts_per_round=3, group_size=2, inner_epochs=2, updates_per_epoch=2
    )
    assert [sum(len(batch) for batch in batches) for batches in updates] == [4, 2, 4, 2]
    seen = []
    for batches in updates:
        (batch,) = batches
        assert batch.group.bincount().tolist() == [2] * (len(batch) // 2)
        seen.append([float(value) for value in batch.reward])
    for epoch in (seen[0] + seen[1], seen[2] + seen[3]):
        assert len(set(epoch)) == 6
    assert Counter(seen[0] + seen[1]) == Counter(seen[2] + seen[3])
    # Which groups come first is drawn anew.
    assert set(seen[0]) != set(seen[2])


def test_more_updates_than_groups_leave_no_empty_one(build, policy):
    _, _, updates = collected(build, policy, updates_per_epoch=5)
    assert [len(batches[0]) for batches in updates] == [2, 2]


def test_groups_without_a_pair_are_dropped_and_counted(build, policy):
    class OneGroupVaries(Redness):
        def score(self, images, prompts):
            rewards = super().score(images, prompts)
            rewards[:2] = 1.0
            return rewards

    _, found, updates = collected(build, policy, OneGroupVaries(), updates_per_epoch=1)
    assert found.metrics["dropped_groups"] == 1.0
    ((batch,),) = updates
    assert len(batch) == 2
    assert bool((batch.reward != 1.0).all())


@pytest.mark.parametrize("clip_range", [None, 1e-4])
def test_two_passes_give_the_values_and_gradients_of_one(build, policy, clip_range):
    method, _, updates = collected(
        build, policy, prompts_per_round=3, group_size=3, updates_per_epoch=1, clip_range=clip_range
    )
    ((batch,),) = updates
    disturb(policy)
    naive = naive_prdp(policy, batch, method.algorithm.settings)
    output = method.algorithm.loss(policy, batch, torch_generator(0))
    torch.testing.assert_close(output.loss, naive, rtol=1e-6, atol=0)
    expected, found = gradient_of(policy, naive), gradient_of(policy, output.loss)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
    assert float(output.metrics["kl"]) > 0
    if clip_range is not None:
        assert float(output.metrics["clip_fraction"]) > 0


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_figures_of_prdp_are_those_of_the_replay(build, policy, reduction):
    changes = {"clip_range": 1e-3, "regression_beta": 0.5, "step_reduction": reduction}
    method, _, updates = collected(build, policy, group_size=3, updates_per_epoch=1, **changes)
    ((batch,),) = updates
    disturb(policy)
    with torch.no_grad():
        output = method.algorithm.loss(policy, batch, torch_generator(0))
        log_prob = naive_log_probs(policy, batch)
    found = {name: float(value) for name, value in output.metrics.items()}
    ratio = (log_prob - batch.log_prob_old).exp()
    assert found["ratio_mean"] == pytest.approx(float(ratio.mean()), rel=1e-5)
    assert found["ratio_deviation_max"] == pytest.approx(float((ratio - 1).abs().max()), rel=1e-4)
    # The policy that drew was the reference.
    moved = log_prob - batch.log_prob_old
    assert found["clip_fraction"] == pytest.approx(float((moved.abs() > 1e-3).float().mean()))
    assert 0 < found["clip_fraction"] < 1
    total = moved.sum(1) if reduction == "sum" else moved.mean(1)
    arguments = total, batch.reward, batch.group
    accuracy = float(reward_difference.pair_accuracy(*arguments))
    assert found["implicit_acc"] == pytest.approx(accuracy)
    assert 0 < accuracy < 1
    share = float(reward_difference.explained(*arguments, 0.5))
    assert found["explained"] == pytest.approx(share, rel=1e-2)
    assert found["kl"] == pytest.approx(naive_kl(policy, batch), rel=1e-4)


def test_rebel_is_the_regression_on_the_whole_trajectory(build, policy):
    method = build(METHODS["rebel"] | {"group_size": 3, "regression_beta": 0.5})
    ((batch,), *_) = method.experience.collect(policy, torch_generator(0, "round", 0)).updates
    disturb(policy)
    output = method.algorithm.loss(policy, batch, torch_generator(0))
    log_prob = naive_log_probs(policy, batch)
    total = (log_prob - batch.log_prob_old).sum(1)
    expected = torch.zeros(())
    for group in range(2):
        first, second, third = (batch.group == group).nonzero().flatten().tolist()
        for i, j in ((first, second), (first, third), (second, third)):
            gap = 0.5 * (total[i] - total[j]) - (batch.reward[i] - batch.reward[j])
            expected = expected + gap.square() / 6
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=0)
    gradients = gradient_of(policy, output.loss), gradient_of(policy, expected)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5 * float(gradients[1].abs().max()))
    ratio = (log_prob - batch.log_prob_old).detach().exp()
    metrics = {name: float(value) for name, value in output.metrics.items()}
    assert metrics["ratio_mean"] == pytest.approx(float(ratio.mean()), rel=1e-5)
    assert metrics["ratio_deviation_max"] == pytest.approx(float((ratio - 1).abs().max()), rel=1e-4)
    arguments = total.detach(), batch.reward, batch.group
    accuracy = float(reward_difference.pair_accuracy(*arguments))
    assert metrics["implicit_acc"] == pytest.approx(accuracy)
    share = float(reward_difference.explained(*arguments, 0.5))
    assert metrics["explained"] == pytest.approx(share, rel=1e-2)


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors that were made inside of the block and are still held, by whomever."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return made

    def _watch(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def peak_of(policy, loss_of) -> int:
    """Of forward and backward pass together."""
    with LiveMemory() as memory:
        gradient_of(policy, loss_of())
    return memory.peak


def test_memory_does_not_grow_with_images_and_steps(build, policy):
    settings = PRDPSettings(clip_range=None)
    batches = {}
    for group_size in (2, 8):
        _, _, updates = collected(
            build, policy, prompts_per_round=2, group_size=group_size, updates_per_epoch=1
        )
        ((batches[group_size],),) = updates
    disturb(policy)
    peaks = {
        kind: [peak_of(policy, lambda b=batch, f=function: f(b)) for batch in batches.values()]
        for kind, function in {
            "naive": lambda batch: naive_prdp(policy, batch, settings),
            "two passes": lambda batch: PRDP(settings).loss(policy, batch, torch_generator(0)).loss,
        }.items()
    }
    few, many = peaks["naive"]
    assert many > 3 * few
    few, many = peaks["two passes"]
    # What is left are a few numbers of each step.
    assert many < 1.1 * few
    assert few < peaks["naive"][0]


def test_the_reference_is_asked_once_and_the_policy_twice(build, policy):
    _, _, updates = collected(build, policy, group_size=2, updates_per_epoch=1)
    ((batch,),) = updates
    calls = Counter()

    def count(*_):
        calls["network"] += 1

    handle = policy._network.module.register_forward_pre_hook(count)
    parts = batch.log_prob_old.numel() // policy.batch_size
    assert parts == 2
    for score, times in ((score_again, 2), (lambda *a: score_with_reference(*a).log_prob, 3)):
        calls.clear()
        gradient_of(policy, score(policy, batch).sum())
        assert calls["network"] == times * parts
    handle.remove()


def test_scores_are_in_the_order_of_images_and_steps(build, policy):
    _, _, updates = collected(build, policy, updates_per_epoch=1)
    ((batch,),) = updates
    assert torch.equal(score_again(policy, batch).detach(), batch.log_prob_old)
    scores = score_with_reference(policy, batch)
    assert torch.equal(scores.log_prob.detach(), batch.log_prob_old)
    assert torch.equal(scores.log_prob_ref, batch.log_prob_old)
    assert not scores.kl.any()
    disturb(policy)
    moved = score_with_reference(policy, batch)
    torch.testing.assert_close(moved.log_prob.detach(), naive_log_probs(policy, batch).detach())
    torch.testing.assert_close(moved.log_prob_ref, batch.log_prob_old)
    for column, step in enumerate(batch.steps.tolist()):
        text, x_t = batch.conditioning, batch.latents[:, step]
        both = [policy.transition(x_t, step, text, adapter) for adapter in ("train", "reference")]
        expected = both[0].kl_per_dim(both[1]).detach()
        torch.testing.assert_close(moved.kl[:, column], expected, rtol=1e-3, atol=1e-7)


def test_parts_are_joined_in_order_and_cover_every_row():
    weight = torch.tensor(2.0, requires_grad=True)
    seen = []

    def function(rows):
        seen.append(rows.tolist())
        return weight * rows, rows + 1

    first, second = in_two_passes(function, 5, 2)
    assert seen == [[0, 1], [2, 3], [4]]
    assert first.tolist() == [0, 2, 4, 6, 8]
    assert second.tolist() == [1, 2, 3, 4, 5]
    first.sum().backward()
    assert float(weight.grad) == 10.0


def test_rebel_keeps_its_memory_of_prompts(build, policy):
    method = build(METHODS["rebel"] | {"min_count": 1, "buffer_size": 3})
    found = method.experience.collect(policy, torch_generator(0, "round", 0))
    ((batch,), *_) = found.updates
    # Two images of a prompt, standardised by their own mean and deviation: 1 and -1.
    torch.testing.assert_close(batch.reward.abs(), torch.ones(4), rtol=1e-2, atol=0)
    state = method.experience.state()
    assert (~state["history"].isnan()).sum(1).max() == 2
    other = build(METHODS["rebel"] | {"min_count": 1, "buffer_size": 3})
    other.experience.load_state(state)
    again = other.experience.state()["history"]
    assert torch.equal(again.nan_to_num(-1.0), state["history"].nan_to_num(-1.0))


@pytest.mark.parametrize(("advantage", "kept"), [("raw", True), ("batch", False)])
def test_rebel_takes_rewards_raw_or_standardised(build, policy, advantage, kept):
    method = build(METHODS["rebel"] | {"advantage": advantage})
    ((batch,), *_) = method.experience.collect(policy, torch_generator(0, "round", 0)).updates
    reward = Redness().score(policy.decode(batch.latents[:, -1]), [""] * 4)
    if kept:
        assert torch.equal(batch.reward, reward)
    else:
        expected = (reward - reward.mean()) / reward.std(correction=0)
        torch.testing.assert_close(batch.reward, expected, rtol=1e-3, atol=1e-4)


def test_rebel_that_has_less_memory_than_it_needs_is_refused(build):
    with pytest.raises(ValueError, match="min_count is more than the buffer_size"):
        build(METHODS["rebel"] | {"min_count": 5, "buffer_size": 4})
