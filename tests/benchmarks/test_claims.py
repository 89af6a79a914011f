"""Figures of the claims from runs whose numbers are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.claims import measures
from benchmarks.claims import runs as claims_runs
from benchmarks.claims.runs import NONE, PROFILES, Run
from benchmarks.claims.table import CLAIMS, Arm, claim_of_pairs
from components.contracts.artifacts import write_json
from components.finetuning.settings import METHODS

Make = Callable[..., Run]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A finished run with the given verdicts of two images for each of two prompts."""
    monkeypatch.setattr(claims_runs, "RESULTS", tmp_path)

    def make(name: str, seed: int, correct: list[float], judge: list[float] | None = None) -> Run:
        run = Run(name, seed, "dpok", {"finetuning": {"rounds": len(name)}})
        images = {
            "prompt": [0, 0, 1, 1],
            **dict.fromkeys(("correct", "score", "reward"), correct),
        }
        curves = []
        for number, value in enumerate(judge or []):
            row = {"round": number + 1.0, "images": 100.0 * (number + 1), "good": value}
            curves += [row | {"judge": value, "validation_reward": value}, row]
        test = {"diversity": 0.25, "images": images}
        write_json(run.path, {"curves": curves, "test": test})
        if name == "ours":
            # Of four images of each prompt the first has the highest reward.
            drawn = {
                "prompt": [0] * 4 + [1] * 4,
                "correct": [1, 0, 0, 0, 0, 0, 0, 1],
                "score": [0] * 8,
                "reward": [4, 3, 2, 1] * 2,
            }
            write_json(run.base.path, {"draws": {"images": drawn}})
        return run

    return make


def test_a_difference_is_paired_image_by_image_and_pooled_over_seeds(made: Make) -> None:
    ours = [made("ours", 1, [1, 1, 1, 0]), made("ours", 2, [1, 1, 1, 1])]
    theirs = [made("theirs", 1, [0, 1, 0, 0]), made("theirs", 2, [1, 1, 0, 1])]
    found = measures.difference(ours, theirs, "correct")
    assert found["by_seed"] == [0.5, 0.25]
    assert found["value"] == 0.375
    low, high = found["interval"]
    assert 0.0 <= low < 0.375 < high <= 0.5
    assert measures.win_rate(ours, theirs)["value"] == (1 + 0.5 + 1 + 0.5 + 0.5 * 2 + 1 + 0.5) / 8


def test_cost_is_what_was_spent_before_the_look_that_reached_the_target(made: Make) -> None:
    run = made("ours", 1, [0, 0, 0, 0], judge=[0.2, 0.4, 0.3, 0.6])
    # Looks precede their round: at 0, 100, 200 and 300 images.
    found = measures.cost_to_reach([run], [0.3], "judge", "images")
    assert found["by_seed"] == pytest.approx([50.0])
    assert measures.cost_to_reach([run], [0.5], "judge", "images")["by_seed"] == pytest.approx(
        [200 + 100 * 2 / 3]
    )
    never = measures.cost_to_reach([run], [0.7], "judge", "images")
    assert (never["value"], never["reached"], never["spent"]) == (None, "0 of 1", 300.0)
    # It was there before anything was spent.
    assert measures.cost_to_reach([run], [0.1], "judge", "images")["by_seed"] == [0.0]
    assert measures.first(run, "judge") == 0.2
    assert measures.best(run, "judge") == 0.6
    # The rows of a round's further updates tell of the same images.
    assert measures.cost_to_reach([run], [0.3], "good", "images")["by_seed"] == pytest.approx(
        [50.0]
    )


def test_what_a_rise_of_the_reward_has_cost(made: Make) -> None:
    rows = [
        {"validation_reward": 0.1, "judge": 0.3, "validation_diversity": 0.20},
        {"validation_reward": 0.0, "judge": 0.3, "validation_diversity": 0.20},
        {"validation_reward": 0.4, "judge": 0.5, "validation_diversity": 0.10},
    ]
    rose, fell = made("ours", 1, [0, 0, 0, 0]), made("theirs", 2, [0, 0, 0, 0])
    write_json(rose.path, {"curves": [{"update": 0.0}, *rows]})
    write_json(fell.path, {"curves": rows[:2]})
    # 0.2 above the first look is three quarters of the way from the second to the third.
    found = measures.at_rise([rose, fell], 0.2)
    assert found["judge"]["by_seed"] == [pytest.approx(0.15), None]
    assert found["judge"]["value"] == pytest.approx(0.15)
    assert found["diversity"]["value"] == pytest.approx(0.125 / 0.2 - 1)
    assert found["reached"] == "1 of 2"
    assert measures.at_rise([fell], 0.2)["diversity"]["value"] is None


def test_mistakes_of_people_are_taken_out_of_what_they_call_good(made: Make) -> None:
    run = made("ours", 1, [0, 0, 0, 0], judge=[0.3, 0.5])
    labels = {"arguments": {"flip_probability": 0.1}}
    careless = replace(run, changes={"finetuning": {"method": {"labels": labels}}})
    careless.path.write_text(run.path.read_text())
    # Of right images a share p looks right in 0.9 p + 0.1 (1 - p) of the labels.
    assert measures.best(careless, "good") == pytest.approx((0.5 - 0.1) / 0.8)


def test_the_best_of_n_is_the_reward_s_choice_and_is_compared_prompt_by_prompt(made: Make) -> None:
    run = made("ours", 1, [1, 1, 1, 0])
    # Of two images of the first prompt the first is shown in three pairs of six; of the second
    # prompt the right image has the lowest reward and is never the best of two.
    assert measures.best_of_n([run.base], 1)["value"] == 0.25
    assert measures.best_of_n([run.base], 2)["value"] == pytest.approx(0.25)
    assert measures.best_of_n([run.base], 4)["value"] == pytest.approx(0.5)
    found = measures.minus_best_of_n([run], 2)
    assert found["value"] == pytest.approx((1 - 0.5 + 0.5 - 0.0) / 2)


def test_a_run_is_named_by_all_that_decides_it() -> None:
    run = Run("a", 7, "dpok")
    first = run.digest
    others = [
        Run("a", 8, "dpok"),
        Run("a", 7, "supervised"),
        Run("a", 7, "dpok", {"finetuning": {"method": {"kl_weight": 0.0}}}),
        Run("a", 7, "dpok", prompts_per_category=1),
        Run("a", 7, "dpok", quick=True),
    ]
    assert len({run.digest, *(other.digest for other in others)}) == 6
    assert Run("another name", 7, "dpok").folder == run.folder
    assert run.digest == first, "what was asked for in between has left its mark"
    assert run.base.profile == NONE
    assert run.base.base.folder == run.base.folder


def test_every_arm_has_a_profile_and_every_method_an_arm() -> None:
    profiles = {path.stem: path.read_text() for path in PROFILES.glob("*.yaml")}
    for claim in CLAIMS:
        assert {arm.profile for arm in claim.arms.values()} <= set(profiles)
    for name in METHODS:
        assert any(f"name: {name}\n" in text for text in profiles.values()), name


def test_a_pair_of_which_one_is_no_arm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no arms \['ddpo, few'\]; it has \['prdp'\]"):
        claim_of_pairs("2", "A title", {"prdp": Arm("prdp")}, ("prdp", "ddpo, few"))
