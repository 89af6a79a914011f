"""What needs no training: best of n against enumeration, Q-learning against a table of its own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from components.contracts.selection import selection_probabilities
from components.contracts.stage import stage_main
from components.evaluation.baselines.best_of_n import best_of_n
from components.evaluation.baselines.choice import Choice, choice_figures
from components.evaluation.baselines.prompt_search import rephrased, search, updated
from components.evaluation.measure import Draws, Verdicts
from components.evaluation.settings import BaselineSettings, PhraseSlot, PromptSearchSettings
from components.evaluation.stage import run
from components.evaluation.statistics import clustered_share, wilson_interval
from components.evaluation.summary import flat_metrics
from components.tracking import open_tracker
from tests.evaluation.conftest import PROMPT_ROWS, write_params, write_prompts


def test_the_docstrings_example():
    found = selection_probabilities(np.array([3.0, 1.0, 2.0]), 2)
    assert found.tolist() == pytest.approx([2 / 3, 0.0, 1 / 3])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_selection_is_the_mean_over_all_subsets(n: int):
    reward = np.array([0.3, -1.0, 0.7, 0.7, 2.0, -1.0])
    counts, subsets = np.zeros(6), list(itertools.combinations(range(6), n))
    for subset in subsets:
        best = [i for i in subset if reward[i] == max(reward[list(subset)])]
        counts[best] += 1 / len(best)
    assert selection_probabilities(reward, n) == pytest.approx(counts / len(subsets))


def test_selection_at_the_ends():
    reward = np.array([0.2, 0.9, 0.4, 0.1])
    assert selection_probabilities(reward, 1) == pytest.approx(np.full(4, 0.25))
    assert selection_probabilities(reward, 4) == pytest.approx([0, 1, 0, 0])
    for n in (0, 5):
        with pytest.raises(ValueError, match=f"best of {n} of 4"):
            selection_probabilities(reward, n)


def test_the_expected_maximum_of_n_uniform_numbers_is_n_over_n_plus_1():
    """Unbiased for every n from the same 12 draws; the naive mean of maxima of one split is too,
    but with more variance."""
    generator = np.random.default_rng(0)
    drawn = generator.random((4000, 12))
    for n in (1, 2, 4, 12):
        found = np.array([row @ selection_probabilities(row, n) for row in drawn])
        error = 4 * found.std() / len(found) ** 0.5
        assert found.mean() == pytest.approx(n / (n + 1), abs=error)
    naive = drawn[:, :4].max(axis=1)
    assert np.array([row @ selection_probabilities(row, 4) for row in drawn]).std() < naive.std()


DRAWS = Draws(["a", "b"], ["colour", "count"], np.array([0, 0, 1, 1]), [1, 2, 3, 4])
LORA = Verdicts(
    np.array([True, True, False, True]), np.array([0.9, 0.2, 0.5, 0.6]), np.array([1.0, 2, 3, 4])
)
POOL = Verdicts(
    np.array([True, False, False, True, False, True]),
    np.array([0.8, 0.1, 0.3, 0.5, 0.4, 0.7]),
    np.array([1.0, 3.0, 2.0, 5.0, 6.0, 4.0]),
)
POOL_PROMPT = np.array([0, 0, 0, 1, 1, 1])


def test_the_figures_of_a_choice_by_hand():
    choice = best_of_n(POOL, POOL_PROMPT, 2)
    # Rewards (1, 3, 2) and (5, 6, 4).
    assert choice.probability == pytest.approx([0, 2 / 3, 1 / 3, 1 / 3, 2 / 3, 0])
    found = choice_figures(choice, DRAWS, LORA, 0, 500)
    # Prompt a: nothing shown is correct; prompt b: the first third is.
    assert found["correct"] == pytest.approx(1 / 6, abs=1e-6)
    assert found["reward"] == pytest.approx((8 / 3 + 17 / 3) / 2, abs=1e-6)
    assert found["score"] == pytest.approx((0.5 / 3 + 1.3 / 3) / 2, abs=1e-6)
    # The LoRA: (1, 1) - 0 and (0, 1) - 1/3.
    assert found["lora_difference"]["value"] == pytest.approx((1 + 1 - 1 / 3 + 2 / 3) / 4, abs=1e-6)
    # 0.9 beats both; 0.2 beats 0.1 alone, which is shown at 2/3; 0.5 ties 0.5 and beats 0.4; 0.6
    # beats both.
    wins = [1, 2 / 3, 1 / 6 + 2 / 3, 1]
    assert found["lora_win_rate"]["value"] == pytest.approx(sum(wins) / 4, abs=1e-6)
    assert found["by_category"]["colour"]["value"] == 0.0
    assert found["by_category"]["count"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    # Two prompts are two clusters: their means are the ends.
    assert found["lora_difference"]["interval"] == pytest.approx([1 / 6, 1.0], abs=1e-6)
    # Squared standard error 2 · (2/36) / 4 = 1/36, share · (1 - share) = 5/36: worth five images.
    assert found["interval"] == pytest.approx(wilson_interval(1 / 6, 5.0), abs=1e-6)


def test_choosing_at_random_is_the_pool_itself():
    choice = best_of_n(POOL, POOL_PROMPT, 1)
    found = choice_figures(choice, DRAWS, LORA, 0, 500)
    assert found["correct"] == 0.5 and found["reward"] == 3.5
    even = choice_figures(Choice(POOL, POOL_PROMPT, np.full(6, 1 / 3)), DRAWS, LORA, 0, 500)
    assert even == found


def test_a_mean_of_images_is_worth_no_more_than_its_images():
    values, clusters = np.array([0.5, 0.5, 0.25, 0.75]), np.arange(4)
    # Standard error: residuals (0, 0, -0.25, 0.25), 4/3 · 0.125 / 16, squared 1/96; 0.25 · 96 = 24.
    for images, trials in ((8, 8), (24, 24), (40, 24)):
        found = clustered_share(values, clusters, images)
        assert (found.low, found.high) == pytest.approx(wilson_interval(0.5, trials))
    # Without a number an outcome is one image.
    plain = clustered_share(values, clusters)
    assert (plain.low, plain.high) == pytest.approx(wilson_interval(0.5, 4))


def test_the_q_update_by_hand():
    assert updated(2.0, 1.0, np.array([3.0, 5.0]), 0.5, 0.8) == pytest.approx(3.5)


SLOTS = (
    PhraseSlot(place="before", phrases=("a photo of", "a drawing of")),
    PhraseSlot(place="behind", phrases=(", in colour", "at night")),
)


def settings(**others: object) -> PromptSearchSettings:
    return PromptSearchSettings(slots=SLOTS, **others)


def test_words_stand_where_their_slots_say():
    assert rephrased("a red fox", SLOTS, (0, 0)) == "a red fox"
    assert rephrased("a red fox", SLOTS, (2, 1)) == "a drawing of a red fox, in colour"
    assert rephrased("a red fox", SLOTS, (0, 2)) == "a red fox at night"
    four = (*SLOTS, PhraseSlot(place="before", phrases=("a toy of",)), SLOTS[1])
    assert rephrased("it", four, (1, 2, 1, 1)) == "a photo of a toy of it at night, in colour"


def test_the_table_is_that_of_its_moves():
    rendered = []

    def reward_of(encoding: tuple[int, ...]) -> float:
        rendered.append(encoding)
        return 1.0 + encoding[0] - 0.3 * encoding[1]

    chosen = settings(episodes=20, edits=3, exploration=0.5, learning_rate=0.4, discount=0.7)
    seen = search(SLOTS, reward_of, chosen, np.random.default_rng(1))
    assert rendered == list(seen.rewards) and len(set(rendered)) == len(rendered)
    assert seen.start == (0, 0) and len(seen.moves) == 60
    table = {}
    for number, move in enumerate(seen.moves):
        if number % 3 == 0:
            assert move.state == (0, 0)
        else:
            assert move.state == seen.moves[number - 1].after
        slot, phrase = divmod(move.action, 3)
        assert move.after == tuple(
            phrase if at == slot else old for at, old in enumerate(move.state)
        )
        assert move.reward == pytest.approx(1.0 + move.after[0] - 0.3 * move.after[1])
        here = table.setdefault(move.state, [0.0] * 6)
        best = max(table.setdefault(move.after, [0.0] * 6))
        here[move.action] += 0.4 * (move.reward + 0.7 * best - here[move.action])
    assert seen.table.keys() == table.keys()
    for state, values in table.items():
        assert seen.table[state] == pytest.approx(values)


def test_with_time_the_table_is_the_optimal_one():
    """Deterministic moves, α = 1 and every action tried: value iteration's fixed point."""
    states = list(itertools.product(range(3), range(3)))
    paid = [0.1, 0.4, 0.2, 0.0, 0.9, 0.3, 0.5, 0.1, 0.7]
    rewards = dict(zip(states, paid, strict=True))
    chosen = settings(episodes=3000, edits=4, exploration=1.0, learning_rate=1.0, discount=0.5)
    seen = search(SLOTS, rewards.__getitem__, chosen, np.random.default_rng(2))
    value = dict.fromkeys(rewards, 0.0)

    def actions(state: tuple[int, ...]) -> list[float]:
        after = [(phrase, state[1]) for phrase in range(3)]
        after += [(state[0], phrase) for phrase in range(3)]
        return [rewards[name] + 0.5 * value[name] for name in after]

    for _ in range(60):
        value = {state: max(actions(state)) for state in rewards}
    for state in rewards:
        assert seen.table[state] == pytest.approx(actions(state), abs=1e-6)
    assert seen.found == (1, 1)


def test_greedy_walks_stay_with_what_pays():
    def reward_of(encoding: tuple[int, ...]) -> float:
        return float(encoding == (2, 0))

    chosen = settings(episodes=200, exploration=0.0)
    seen = search(SLOTS, reward_of, chosen, np.random.default_rng(3))
    assert seen.found == (2, 0)
    # Once found it is where every walk goes and stays.
    assert {move.after for move in seen.moves[-50:]} == {(2, 0)}
    again = search(SLOTS, reward_of, chosen, np.random.default_rng(3))
    assert again.moves == seen.moves


def test_what_pays_nothing_leaves_the_bare_prompt():
    seen = search(SLOTS, lambda encoding: 1.0, settings(), np.random.default_rng(0))
    assert seen.found == seen.start == (0, 0)


@pytest.mark.parametrize(
    "block", [{"best_of": [1]}, {"prompt_search": {"slots": []}}, {"best_off": [4]}]
)
def test_settings_that_make_no_sense_are_refused(block: dict):
    with pytest.raises(ValidationError):
        BaselineSettings.model_validate_json(json.dumps(block))


def evaluate(root: Path, **baselines: object) -> dict:
    write_params(root, baselines=baselines)
    assert stage_main("evaluation", run, open_tracker, []) == 0
    return json.loads((root / "reports" / "evaluation.json").read_text())


def test_more_images_are_drawn_where_more_are_asked_for(project: Path):
    found = evaluate(project, best_of=[2, 5])
    baselines = found["baselines"]
    assert list(baselines["best_of_n"]) == ["2", "3", "5"] and baselines["prompt_search"] is None
    rewards = [baselines["best_of_n"][n]["reward"] for n in ("2", "3", "5")]
    assert rewards == sorted(rewards) and rewards[0] > found["base"]["reward"]
    metrics = flat_metrics(found)
    assert metrics["correct_best_of_5"] == baselines["best_of_n"]["5"]["correct"]
    low, high = metrics["lora_minus_best_of_5_low"], metrics["lora_minus_best_of_5_high"]
    assert low <= metrics["lora_minus_best_of_5"] <= high

    page = (project / "reports" / "report.html").read_text()
    assert "<h2>Without training</h2>" in page
    assert all(f"<td>best of {n} " in page for n in (2, 3, 5))

    # Without more the images are those that are drawn anyway: nothing else changes.
    plain = evaluate(project)
    assert list(plain["baselines"]["best_of_n"]) == ["3"]
    assert {**plain, "baselines": 0} == {**found, "baselines": 0}
    three = plain["baselines"]["best_of_n"]["3"]
    # With as many images as there are, the best is the maximum; it is no estimate over subsets.
    assert three["reward"] > found["base"]["reward"]


def test_best_of_all_is_the_highest_reward_of_each_prompt(project: Path):
    from components.contracts.seeds import derive_seed
    from components.contracts.settings import BaseSettings, ComputeSettings
    from components.diffusion import load_policy, sample_images
    from components.evaluation.measure import choose_draws
    from tests.evaluation.conftest import BASE
    from tests.evaluation.plugs import RednessReward

    found = evaluate(project, best_of=[4])["baselines"]["best_of_n"]
    table = project / "data" / "prompts" / "test.parquet"
    draws = choose_draws(table, derive_seed(5, "evaluation", "draws"), 2, 4)
    policy = load_policy(BaseSettings(**BASE), ComputeSettings(device="cpu", threads=1))
    images, _ = sample_images(policy, draws.texts, draws.seeds)
    rewards = RednessReward().score(images, draws.texts).double().view(6, 4)
    assert found["4"]["reward"] == pytest.approx(float(rewards.max(1).values.mean()), abs=1e-6)
    first_three = np.array(
        [row.numpy() @ selection_probabilities(row.numpy(), 3) for row in rewards]
    )
    assert found["3"]["reward"] == pytest.approx(first_three.mean(), abs=1e-6)


def test_words_are_searched_on_training_prompts_and_judged_as_asked(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    from components.evaluation.baselines.run import Bench
    from tests.evaluation.plugs import BrightnessJudge, RednessReward

    drawn, judged, rewarded = [], [], []
    draw, score, reward = Bench.draw, BrightnessJudge.score, RednessReward.score

    def watched_draw(self, texts, seeds, description):
        drawn.extend(texts)
        return draw(self, texts, seeds, description)

    def watched_score(self, images, prompts):
        judged.extend(prompts)
        return score(self, images, prompts)

    def watched_reward(self, images, prompts):
        rewarded.extend(prompts)
        return reward(self, images, prompts)

    monkeypatch.setattr(Bench, "draw", watched_draw)
    monkeypatch.setattr(BrightnessJudge, "score", watched_score)
    monkeypatch.setattr(RednessReward, "score", watched_reward)

    table = project / "data" / "prompts" / "test.parquet"
    kept = table.read_bytes()
    write_prompts(project, [("a green pear", "colour"), ("six hens", "count")])
    table.rename(table.with_name("train.parquet"))
    table.write_bytes(kept)
    slots = [slot.model_dump(mode="json") for slot in SLOTS]
    found = evaluate(
        project, prompt_search={"slots": slots, "episodes": 6, "samples_per_prompt": 2}
    )
    words = found["baselines"]["prompt_search"]
    start, best = words["search_reward"]
    assert best >= start and words["num_images"] == words["num_encodings"] * 4
    assert words["num_encodings"] > 1
    asked = {prompt for prompt, _ in PROMPT_ROWS}
    trials = {"a green pear", "six hens"}
    # The judge never sees a training prompt, and nobody is asked about other words than the user's.
    assert set(judged) <= asked and set(rewarded) <= asked | trials
    assert words["template"].count("{prompt}") == 1
    if best > start:
        assert any(words["template"].replace("{prompt}", prompt) in drawn for prompt in asked)
        assert words["reward"] != found["base"]["reward"]
    page = (project / "reports" / "report.html").read_text()
    assert "<td>other words <small>" in page and words["template"] in page


def test_without_training_prompts_a_search_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
):
    slots = [SLOTS[0].model_dump(mode="json")]
    write_params(project, baselines={"prompt_search": {"slots": slots}})
    assert stage_main("evaluation", run, open_tracker, []) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "train.parquet" in errors[0]


def test_null_compares_with_nothing(project: Path):
    write_params(project, baselines=None)
    assert stage_main("evaluation", run, open_tracker, []) == 0
    found = json.loads((project / "reports" / "evaluation.json").read_text())
    assert found["baselines"] is None
    assert "Without training" not in (project / "reports" / "report.html").read_text()
    assert not any("best_of" in name for name in flat_metrics(found))
