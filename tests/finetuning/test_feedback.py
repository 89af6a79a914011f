"""HERO's rounds: best images, encoder, learned reward, start noise, and rounds scored anew."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from components.contracts.errors import GuardError, SettingsError
from components.contracts.protocols import Feedback
from components.contracts.seeds import torch_generator
from components.finetuning.algorithms.hero import HEROSettings
from components.finetuning.experience.drawing import Drawn
from components.finetuning.experience.feedback import KnownBaseline, Liked
from components.finetuning.experience.relabelling import RelabelledRounds
from tests.finetuning.conftest import METHODS

HERO = METHODS["hero"] | {"labels": {"source": "reward"}}
SMALL = {"encoder_size": 32, "head_sizes": [4], "passes": 2, "learning_rate": 1.0e-3}
ONE = HERO | {"group_size": 4, "updates_per_epoch": 1, "representation": SMALL}


class Scripted:
    """People who say what the test wants, and remember what they were shown."""

    def __init__(self, *answers: tuple[list[bool], list[float]]) -> None:
        self.answers, self.shown = list(answers), []

    def label(self, images, prompts, generator) -> Feedback:
        self.shown.append((images, list(prompts)))
        good, rank = self.answers.pop(0)
        return Feedback(torch.tensor(good), torch.tensor(rank))


def round_of(made, policy, number=0):
    """A round and its transitions, as one batch a row."""
    collected = made.experience.collect(policy, torch_generator(0, "round", number))
    return collected, [batch for batches in collected.updates for batch in batches]


def scripted(build, method, *answers):
    made = build(method)
    made.experience.labeller = Scripted(*answers)
    return made, made.experience


def seen(experience):
    """Let the rounds tell which images were drawn and how they were rewarded."""
    rounds, found = experience.rounds, []
    honest = rounds.reward

    def reward(drawn, generator):
        scored = honest(drawn, generator)
        found.append((drawn, scored.reward))
        return scored

    rounds.reward = reward
    return found


GOOD = [True, False, True, False]


def test_the_best_is_the_first_of_the_good_and_its_reward_is_one(build, policy):
    # Image 1 ranks highest and is not good.
    made, experience = scripted(build, ONE, (GOOD, [1.0, 9.0, 2.0, 0.0]))
    found = seen(experience)
    collected, _ = round_of(made, policy)
    ((drawn, reward),) = found
    assert torch.equal(experience.liked.best_x0[0], drawn.x0[2])
    assert torch.equal(experience.liked.best_noise[0], drawn.latents[2, 0])
    assert torch.equal(experience.liked.best_image[0], drawn.images[2])
    # What is good besides is kept as start noise.
    assert torch.equal(experience.liked.good_noise, drawn.latents[:1, 0])
    assert float(reward[2]) == pytest.approx(1.0, abs=1e-6)
    assert bool((reward[[0, 1, 3]] < 1).all())
    assert (collected.metrics["labels"], collected.metrics["good"]) == (4.0, 0.5)
    assert collected.metrics["new_bests"] == 1.0
    assert collected.metrics["reward"] == pytest.approx(float(reward.mean()))


def test_each_prompt_is_compared_with_its_own_best(build, policy):
    method = ONE | {"prompts_per_round": 2}
    answers = ([True, False, True, False] * 2, [1.0, 0.0, 2.0, 0.0, 5.0, 0.0, 4.0, 0.0])
    made, experience = scripted(build, method, answers)
    found = seen(experience)
    round_of(made, policy)
    ((drawn, reward),) = found
    assert reward[[2, 4]].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert bool((reward[[0, 1, 3, 5, 6, 7]] < 1 - 1e-6).all())
    code = experience.representation.encode(drawn.x0)
    best = code[[2, 2, 2, 2, 4, 4, 4, 4]]
    torch.testing.assert_close(reward, (1 + torch.cosine_similarity(code, best)) / 2)


@pytest.mark.parametrize(
    ("second", "changes"),
    [
        ((GOOD, [1.0, 9.0, 2.0, 0.0]), False),  # the old best ranks 3
        ((GOOD, [1.0, 9.0, 3.0, 0.0]), False),  # a tie
        ((GOOD, [1.0, 9.0, 3.5, 0.0]), True),
    ],
)
def test_the_old_best_is_shown_again_and_stays_unless_outranked(build, policy, second, changes):
    good, rank = second
    # Whether the old one is called good again does not matter.
    again = ([*good, False], [*rank, 3.0])
    made, experience = scripted(build, ONE, (GOOD, [1.0, 0.0, 2.0, 0.0]), again)
    found = seen(experience)
    round_of(made, policy)
    old = experience.liked.best_image.clone()
    collected, _ = round_of(made, policy, 1)
    images, prompts = experience.labeller.shown[1]
    assert (len(images), len(set(prompts))) == (5, 1)
    assert torch.equal(images[4], old[0])
    best = found[1][0].x0[2] if changes else found[0][0].x0[2]
    assert torch.equal(experience.liked.best_x0[0], best)
    # An image that did not become the best is good like others.
    assert len(experience.liked.good_noise) == (1 if changes else 2)
    assert collected.metrics["new_bests"] == float(changes)
    # The image that is shown for comparison is not counted again.
    assert collected.metrics["labels"] == 8.0


@pytest.mark.parametrize(
    "good", [[False] * 4, [True] * 4, [False, True, False, False]], ids=["none", "all", "best"]
)
def test_without_good_or_bad_images_the_encoder_rests(build, policy, good):
    # Where only the best is good there is nothing to draw near to it.
    first = (GOOD, [1.0, 0.0, 2.0, 0.0])
    made, experience = scripted(build, ONE, first, ([*good, True], [1.0, 5.0, 2.0, 0.0, 4.0]))
    round_of(made, policy)
    before = {name: part.clone() for name, part in experience.representation.state().items()}
    collected, batches = round_of(made, policy, 1)
    after = experience.representation.state()
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert "encoder_loss" not in collected.metrics
    # The policy is trained all the same, on what the encoder knows already.
    assert batches


def test_a_prompt_that_never_had_a_good_image_is_not_trained_on(build, policy):
    method = ONE | {"prompts_per_round": 2, "group_size": 2}
    answers = ([False, False, True, False], [1.0, 2.0, 1.0, 0.0])
    made, experience = scripted(build, method, answers)
    found = seen(experience)
    collected, batches = round_of(made, policy)
    ((drawn, reward),) = found
    known = int(drawn.prompt[2])
    assert experience.liked.known.tolist() == [place == known for place in range(2)]
    assert reward[:2].tolist() == [0.0, 0.0]
    # Two images with two of the steps each are left.
    assert sum(len(batch) for batch in batches) == 4
    assert collected.metrics["prompts_without_best"] == 1.0
    assert collected.metrics["reward"] == pytest.approx(float(reward[2:].mean()))
    # Advantages are those of the two alone: plus and minus one.
    assert {round(float(a), 3) for batch in batches for a in batch.advantage} == {-1.0, 1.0}


def test_when_nobody_likes_anything_nothing_is_trained(build, policy):
    made, _ = scripted(build, ONE, ([False] * 4, [1.0, 2.0, 3.0, 4.0]))
    collected, batches = round_of(made, policy)
    assert batches == []
    assert collected.metrics["prompts_without_best"] == 1.0


def test_every_image_gets_its_z_score_and_distinct_steps(build, policy):
    made, experience = scripted(build, ONE, (GOOD, [1.0, 0.0, 2.0, 0.0]))
    found = seen(experience)
    _, batches = round_of(made, policy)
    ((drawn, reward),) = found
    expected = (reward - reward.mean()) / (reward.std(correction=0) + 1e-6)
    rows = {}
    for batch in batches:
        for x_t, step, advantage in zip(batch.x_t, batch.step, batch.advantage, strict=True):
            image = next(
                number for number in range(4) if torch.equal(drawn.latents[number, step], x_t)
            )
            rows.setdefault(image, []).append(int(step))
            assert float(advantage) == pytest.approx(float(expected[image]), rel=1e-5)
    assert all(len(steps) == len(set(steps)) == 2 for steps in rows.values())
    assert len(rows) == 4


def liked(good_prompts=(0, 0)) -> Liked:
    """Two prompts, the first of which has a best image: noise 1; good ones have noise 2, 3 ..."""
    found = Liked(2, (1, 1, 1))
    found.known[0] = True
    found.best_noise[0] = 1.0
    found.good_noise = torch.arange(2.0, 2 + len(good_prompts)).view(-1, 1, 1, 1)
    found.good_prompt = torch.tensor(good_prompts, dtype=torch.long)
    return found


def numbers(noise) -> list[float]:
    return noise.flatten().tolist()


def test_start_noise_is_the_bests_for_the_first_and_a_good_ones_for_the_others():
    noise = numbers(liked().noise(0, 20, 0.5, torch_generator(0)))
    assert noise[:10] == [1.0] * 10
    assert set(noise[10:]) == {2.0, 3.0}
    # As many indices as lie below the share of the group: 2.5 of 5 are three.
    assert numbers(liked().noise(0, 5, 0.5, torch_generator(0))).count(1.0) == 3
    assert numbers(liked().noise(0, 5, 1.0, torch_generator(0))) == [1.0] * 5


def test_without_a_share_the_best_is_one_of_the_good_and_without_those_it_is_all():
    noise = numbers(liked().noise(0, 60, 0.0, torch_generator(0)))
    assert {value: noise.count(value) > 10 for value in set(noise)} == {
        1.0: True, 2.0: True, 3.0: True,
    }  # fmt: skip
    assert numbers(liked((1, 1)).noise(0, 4, 0.5, torch_generator(0))) == [1.0] * 4
    assert liked().noise(1, 4, 0.5, torch_generator(0)) is None


def test_the_next_round_starts_near_what_was_liked(build, policy):
    method = ONE | {"prompts_per_round": 2, "group_size": 2, "fresh_noise": 0.1}
    # Of the prompt drawn first one image is good, of the other none.
    made, experience = scripted(
        build, method, ([True, False, False, False], [0.0] * 4), ([False] * 5, [0.0] * 5)
    )
    found = seen(experience)
    round_of(made, policy)
    known, best = int(found[0][0].prompt[0]), found[0][0].latents[0, 0]
    round_of(made, policy, 1)
    drawn = found[1][0]
    for start, prompt in zip(drawn.latents[:, 0], drawn.prompt.tolist(), strict=True):
        cosine = torch.cosine_similarity(start.flatten(), best.flatten(), dim=0)
        assert (float(cosine) > 0.97) == (prompt == known)
        # What is left is not the very same noise, and its size is that of fresh noise.
        assert not torch.equal(start, best)
        assert 0.8 < float(start.std()) < 1.2


def test_the_same_prompts_come_in_every_round(build, policy, pool):
    made = build(METHODS["hero_prompts"] | {"replay_rounds": 0})
    found = seen(made.experience)
    for number in range(3):
        round_of(made, policy, number)
    texts = [sorted(set(drawn.texts)) for drawn, _ in found]
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 2
    # All four of them, once each, though a category has two.
    everything = build(METHODS["hero_prompts"] | {"prompts_per_round": 4})
    assert sorted(everything.experience.context.prompts.prompts) == sorted(pool.prompts)


def test_more_prompts_than_there_are_is_refused(build):
    with pytest.raises(SettingsError, match=r"keeps its prompts, and there are 4; allowed: 1 to 4"):
        build(HERO | {"prompts_per_round": 5})


def test_the_other_rewards_by_hand(build, policy):
    rank = [1.0, 0.0, 2.0, 0.5]
    good = [True, False, True, True]
    made, experience = scripted(build, ONE | {"reward": "labels"}, (good, rank))
    found = seen(experience)
    round_of(made, policy)
    assert found[0][1].tolist() == [1.0, 0.0, 1.0, 1.0]

    made, experience = scripted(build, ONE | {"reward": "good"}, (good, rank))
    found = seen(experience)
    round_of(made, policy)
    ((drawn, reward),) = found
    # The best is image 2; the mean is over the two other good ones.
    code = experience.representation.encode(drawn.x0)
    cosine = torch.cosine_similarity(code[:, None], code[None], dim=2)
    torch.testing.assert_close(reward, (1 + cosine[:, [0, 3]].mean(1)) / 2)


def test_a_dead_encoder_stops_the_run(build, policy):
    made, experience = scripted(build, ONE, ([True] * 4, [1.0, 0.0, 2.0, 0.0]))
    for parameter in experience.representation.networks["encoder"].parameters():
        parameter.data.fill_(-1.0)
    with pytest.raises(GuardError, match="does not tell its images apart"):
        round_of(made, policy)


def test_the_encoder_learns_what_people_like(build, policy):
    settings = SMALL | {"head_sizes": [16], "passes": 60}
    made, experience = scripted(
        build, HERO | {"representation": settings}, ([True, False] * 4, [3.0] + [0.0] * 7)
    )
    found = seen(experience)
    collected, _ = round_of(made, policy)
    ((_, reward),) = found
    assert collected.metrics["encoder_loss"] < 0.4
    assert float(reward[2::2].mean()) > float(reward[1::2].mean())


def test_a_resumed_experience_goes_on_to_the_same_round(build, policy):
    method = METHODS["hero_prompts"]
    first, second = build(method), build(method)
    for number in range(2):
        round_of(first, policy, number)
    second.experience.load_state(
        {name: part.clone() for name, part in first.experience.state().items()}
    )
    (one, ours), (other, theirs) = (round_of(made, policy, 2) for made in (first, second))
    assert one.metrics == other.metrics
    assert one.metrics["replayed_images"] == 8.0
    for batch, again in zip(ours, theirs, strict=True):
        assert torch.equal(batch.x_t, again.x_t)
        assert torch.equal(batch.advantage, again.advantage)


def test_kept_rounds_are_trained_on_with_the_newest_encoders_reward(build, policy):
    method = ONE | {"replay_rounds": 1}
    first, second = (GOOD, [1.0, 0.0, 2.0, 0.0]), ([*GOOD, True], [1.0, 0.0, 2.0, 0.0, 3.0])
    made, experience = scripted(build, method, first, second)
    found = seen(experience)
    round_of(made, policy)
    collected, batches = round_of(made, policy, 1)
    (old, old_reward), (new, reward) = found
    assert collected.metrics["replayed_images"] == 4.0
    assert collected.num_images == 4
    # Both rounds with two steps of each image, scored by the encoder of the second round.
    assert sum(len(batch) for batch in batches) == 16
    now = experience._similarity(old)
    assert not torch.equal(now, old_reward)
    both = torch.cat([now, reward])
    expected = (both - both.mean()) / (both.std(correction=0) + 1e-6)
    latents = torch.cat([old.latents, new.latents])
    log_probs = torch.cat([old.log_probs, new.log_probs])
    for batch in batches:
        rows = zip(batch.x_t, batch.step, batch.advantage, batch.log_prob_old, strict=True)
        for x_t, step, advantage, log_prob in rows:
            image = next(n for n in range(8) if torch.equal(latents[n, step], x_t))
            assert float(advantage) == pytest.approx(float(expected[image]), rel=1e-4, abs=1e-5)
            # Still that of the policy that drew it.
            assert torch.equal(log_prob, log_probs[image, step])


def drawn_round(number: int, prompts=(0, 1)) -> Drawn:
    """Images that are told apart by their latents: 10 * round + place."""
    count = len(prompts)
    values = 10.0 * number + torch.arange(count)
    latents = values.view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 1, 1)
    return Drawn(
        latents,
        values.view(-1, 1),
        torch.full((count, 3, 1, 1), number, dtype=torch.uint8),
        torch.tensor(prompts),
        torch.arange(count),
        ["abc"[place] for place in prompts],
    )


def test_rounds_are_scored_anew_at_every_recall_and_the_oldest_leave():
    factor, asked = [1.0], []

    def rescore(drawn):
        asked.append(drawn.x0.flatten().tolist())
        return factor[0] * drawn.x0.flatten()

    kept = RelabelledRounds(2, ["a", "b"], rescore)
    drawn, reward = kept.recall(drawn_round(0), torch.tensor([0.0, 1.0]))
    assert (drawn.x0.flatten().tolist(), reward.tolist()) == ([0.0, 1.0], [0.0, 1.0])
    assert asked == []
    for number, scale in ((1, 2.0), (2, 3.0), (3, 4.0)):
        factor[0] = scale
        drawn, reward = kept.recall(drawn_round(number, (1, 0)), torch.tensor([-1.0, -2.0]))
    # Rounds 1 and 2, never 0, with the reward of the last recall; the new round's as it came.
    assert asked == [[0.0, 1.0], [0.0, 1.0, 10.0, 11.0], [10.0, 11.0, 20.0, 21.0]]
    assert reward.tolist() == [40.0, 44.0, 80.0, 84.0, -1.0, -2.0]
    assert drawn.x0.flatten().tolist() == [10.0, 11.0, 20.0, 21.0, 30.0, 31.0]
    # Images of one prompt are one group.
    assert drawn.texts == ["b", "a"] * 3
    assert drawn.group.tolist() == [1, 0] * 3
    assert drawn.images.flatten(1)[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert drawn.log_probs.flatten().tolist() == [10.0, 11.0, 20.0, 21.0, 30.0, 31.0]


def test_kept_rounds_survive_a_resume():
    kept, again = (RelabelledRounds(2, ["a", "b"], lambda drawn: drawn.x0.flatten()) for _ in "ab")
    for number in range(11):
        kept.recall(drawn_round(number), torch.zeros(2))
    again.load_state(kept.state())
    found = [one.recall(drawn_round(11), torch.zeros(2)) for one in (kept, again)]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][1].tolist() == [90.0, 91.0, 100.0, 101.0, 0.0, 0.0]
    assert torch.equal(found[0][0].latents, found[1][0].latents)


def test_no_rounds_are_kept_by_default():
    kept = RelabelledRounds(0, ["a", "b"], lambda drawn: drawn.x0.flatten())
    for number in range(2):
        drawn, _ = kept.recall(drawn_round(number), torch.zeros(2))
        assert len(drawn.x0) == 2
    assert kept.state() == {}


def test_group_advantages_are_of_the_prompts_that_are_known():
    memory = Liked(3, (1, 1, 1))
    memory.known[:] = torch.tensor([True, False, True])
    drawn = drawn_round(0, (2, 2, 1, 1, 0, 0))
    reward = torch.tensor([1.0, 5.0, 0.0, 9.0, 2.0, 2.0])
    found = KnownBaseline(memory, "group_standardised").advantages(reward, drawn)
    assert found.values.tolist() == pytest.approx([-1.0, 1.0, 0.0, 0.0, 0.0, 0.0], abs=1e-5)
    # Prompt 1 has no best image, and prompt 0 tells its images apart by nothing.
    assert found.kept.tolist() == [True, True, False, False, False, False]
    assert found.num_dropped_groups == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"replay_rounds": 1, "reward": "labels"}, "use reward best, or 0 with reward labels"),
        ({"fresh_noise": 1.1}, "less than or equal to 1"),
        ({"best_share": -0.1}, "greater than or equal to 0"),
        ({"representation": {"head_sizes": ()}}, "at least 1 item"),
        ({"representation": {"cosine_over": "rows"}}, "'features' or 'batch'"),
        ({"labels": {"source": "people"}}, "'reward', 'plug'"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        HEROSettings(**wrong)


def test_the_defaults_are_the_released_configurations():
    settings = HEROSettings()
    assert (settings.prompts_per_round, settings.group_size, settings.updates_per_epoch) == (
        1, 64, 8,
    )  # fmt: skip
    assert (settings.best_share, settings.fresh_noise, settings.train_steps) == (0.5, 0.1, 5)
    assert (settings.learning_rate, settings.clip_range) == (1e-3, 1e-4)
    assert settings.representation.head_sizes == (2048, 1024, 512)
    assert (settings.representation.margin, settings.representation.passes) == (0.5, 500)
    assert settings.replay_rounds == 0
