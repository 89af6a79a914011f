"""Prompts, FIFO, critic: what is drawn, what is remembered."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from components.contracts.errors import DataError, SettingsError
from components.contracts.seeds import torch_generator
from components.contracts.tables import PROMPTS, write_table
from components.finetuning.experience.buffer import StoredTransitions, TransitionBuffer
from components.finetuning.experience.value import ValueNetwork
from components.finetuning.prompt_pool import PromptPool
from components.finetuning.stage import run
from tests.finetuning.conftest import METHODS
from tests.finetuning.plugs import Redness


def stored(numbers) -> StoredTransitions:
    """Transitions that are told apart by their reward."""
    reward = torch.tensor(numbers, dtype=torch.float32)
    count = len(reward)
    latents = reward.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    whole = torch.zeros(count, dtype=torch.long)
    return StoredTransitions(latents, latents, whole, whole, reward, reward, reward)


def test_prompts_of_a_round_are_balanced_over_categories():
    pool = PromptPool(["a", "b", "c", "d", "e", "f"], ["x", "x", "x", "x", "y", "z"])
    for number in range(5):
        places = pool.draw(4, torch_generator(number))
        counts = Counter(pool.categories[place] for place in places)
        assert sorted(counts.values()) == [1, 1, 2]
    # The category with the extra prompt is drawn too.
    extra = {
        Counter(pool.categories[place] for place in pool.draw(4, torch_generator(n))).most_common(
            1
        )[0][0]
        for n in range(20)
    }
    assert extra == {"x", "y", "z"}


def test_a_prompt_repeats_only_where_its_category_is_too_small():
    pool = PromptPool(["a", "b", "c", "d"], ["x", "x", "x", "y"])
    places = pool.draw(6, torch_generator(0))
    assert sorted(places) == [0, 1, 2, 3, 3, 3]


def test_an_empty_prompts_table_is_refused(tmp_path):
    path = tmp_path / "train.parquet"
    write_table(path, PROMPTS.columns.empty_table(), PROMPTS)
    with pytest.raises(DataError, match=r"train\.parquet: holds no prompts"):
        PromptPool.read(path)


def test_the_buffer_keeps_the_newest():
    buffer = TransitionBuffer(4)
    buffer.push(stored([1, 2, 3]))
    buffer.push(stored([4, 5]))
    assert buffer.stored.reward.tolist() == [2, 3, 4, 5]
    assert len(buffer) == 4


def test_the_buffer_draws_without_replacement_and_all_rows_in_step():
    buffer = TransitionBuffer(10)
    buffer.push(stored(range(10)))
    drawn = buffer.draw(6, torch_generator(0))
    assert len(set(drawn.reward.tolist())) == 6
    assert torch.equal(drawn.x_t[:, 0, 0, 0], drawn.reward)
    assert sorted(buffer.draw(99, torch_generator(0)).reward.tolist()) == list(range(10))


def test_an_empty_buffer_has_nothing_to_draw():
    with pytest.raises(ValueError, match="empty"):
        TransitionBuffer(3).draw(1, torch_generator(0))


def test_a_fresh_value_network_is_a_plain_one_and_gains_belong_to_their_step():
    network = ValueNetwork(4 + 3, 8, 2, torch_generator(0))
    x_t, text = torch.randn(2, 1, 2, 2, generator=torch_generator(1)), torch.ones(2, 3)
    rows = torch.tensor([0, 0])
    before = network(x_t, text, rows)
    assert torch.equal(before, network(x_t, text, rows + 1))
    with torch.no_grad():
        network.gains[:, 1] = 0.5
    assert torch.equal(before, network(x_t, text, rows))
    assert not torch.equal(before, network(x_t, text, rows + 1))


def test_the_critic_learns_the_terminal_reward(build, policy):
    method = METHODS["dpok"] | {"value_function": {"learning_rate": 1e-2, "hidden_size": 32}}
    experience = build(method).experience
    experience.collect(policy, torch_generator(0, "round", 0))
    losses = [
        experience.critic.update(experience.buffer, torch_generator(0, "value", n))
        for n in range(60)
    ]
    assert losses[-1] < 0.1 * losses[0]
    # And the advantage is what is left of the reward.
    rows = experience.buffer.stored
    batch = experience._batch(rows)
    torch.testing.assert_close(batch.advantage, rows.reward - experience.critic.values(rows))


def test_transitions_are_those_of_the_rollout(build, policy, pool):
    experience = build(METHODS["dpok"] | {"value_function": None}).experience
    collected = experience.collect(policy, torch_generator(0, "round", 0))
    assert collected.num_images == 4
    rows = experience.buffer.stored
    assert rows.step.tolist() == [0, 1] * 4
    # Within a sample, one step ends where the next begins.
    assert torch.equal(rows.x_prev[0::2], rows.x_t[1::2])
    step = policy.transition(rows.x_t, rows.step, experience.text[rows.prompt])
    assert torch.equal(step.log_prob_per_dim(rows.x_prev), rows.log_prob_old)


def test_samples_of_groups_without_variance_are_not_remembered(build, policy):
    class OneGroupVaries(Redness):
        def score(self, images, prompts):
            rewards = super().score(images, prompts)
            rewards[:2] = 1.0
            return rewards

    method = METHODS["dpok_groups"]
    experience = build(method, OneGroupVaries()).experience
    collected = experience.collect(policy, torch_generator(0, "round", 0))
    assert collected.metrics["dropped_groups"] == 1.0
    assert len(experience.buffer) == 2 * policy.sampler.num_steps


def test_a_deterministic_sampler_is_refused_before_anything_is_drawn(project):
    settings, context = project(METHODS["dpok"])
    still = replace(context, base=context.base.model_copy(update={"eta": 0.0}))
    with pytest.raises(
        SettingsError, match=r"none of the sampler's is stochastic; allowed: base\.eta"
    ):
        run(settings, still)


def test_supervised_images_are_drawn_once_from_the_reference(build, policy):
    experience = build(METHODS["supervised"]).experience
    first = experience.collect(policy, torch_generator(0, "round", 0))
    images = experience.samples["x0"].clone()
    second = experience.collect(policy, torch_generator(0, "round", 1))
    assert (first.num_images, second.num_images) == (4, 0)
    assert torch.equal(experience.samples["x0"], images)


def test_rewards_can_be_shifted_to_be_non_negative(build, policy):
    method = METHODS["supervised"] | {"samples_per_update": 4}
    weights = {}
    for transform in ("raw", "non_negative"):
        experience = build(method | {"reward_transform": transform}).experience
        collected = experience.collect(policy, torch_generator(0, "round", 0))
        (batch,) = next(iter(collected.updates))
        weights[transform] = batch.reward
    raw = weights["raw"]
    torch.testing.assert_close(weights["non_negative"], raw - raw.min())


def test_kl_d_counts_what_it_clips(build, policy):
    made = build(METHODS["supervised"] | {"kl": "data", "kl_weight": 0.0})
    (batch,) = next(iter(made.experience.collect(policy, torch_generator(0)).updates))
    batch.reward[:] = torch.tensor([-1.0, 2.0, -3.0])
    metrics = made.algorithm.loss(policy, batch, torch_generator(1)).metrics
    assert float(metrics["clipped_weights"]) == pytest.approx(2 / 3)
    assert (
        build(METHODS["supervised"] | {"kl": "none"})
        .algorithm.loss(policy, batch, torch_generator(1))
        .metrics
        == {}
    )
