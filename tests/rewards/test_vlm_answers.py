"""Scores out of answers, worked by hand."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
from pydantic import ValidationError

from components.contracts.errors import SettingsError
from components.rewards.scorers.settings import VlmScorerSettings
from components.rewards.scorers.vlm_answers import Unusable, expected_score, written_score


def settings(**changes: Any) -> VlmScorerSettings:
    return VlmScorerSettings(**{"url": "http://a/v1", "model": "judge", **changes})


def choice(text: str | None, **fields: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, **fields}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("4", 4.0),
        (" 3.5 \n", 3.5),
        ("Score: 2", 2.0),
        ("5/5.", 5.0),
        ("score 1 / 5", 1.0),
    ],
)
def test_a_number_alone_is_the_score(text: str, score: float) -> None:
    assert written_score(choice(text), settings()) == score


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It is a nice picture.", "no number in the answer 'It is a nice picture.'"),
        ("between 3 and 4", "no number in"),
        ("I see 3 cats", "no number in"),
        ("", "no number in the answer ''"),
        (None, "no number in the answer ''"),
        ("7", "7 is out of range in the answer '7'"),
        ("-1", "-1 is out of range"),
        ("0.99", "0.99 is out of range"),
        ("word " * 100, "no number in the answer 'word .*\\.\\.\\.'"),
    ],
)
def test_anything_else_is_none(text: str | None, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        written_score(choice(text), settings())


def test_a_number_that_was_cut_is_none() -> None:
    with pytest.raises(Unusable, match="the answer '1' was cut at max_tokens"):
        written_score(choice("1", finish_reason="length"), settings(highest=10))
    assert written_score(choice("1", finish_reason="stop"), settings(highest=10)) == 1.0


def test_a_pattern_of_ones_own_finds_the_number_in_a_speech() -> None:
    own = settings(answer_pattern=r"final score:\s*(\S+)")
    assert written_score(choice("I see 3 cats.\nFinal Score: 4.5"), own) == 4.5
    with pytest.raises(Unusable, match="no number"):
        written_score(choice("Final score: four"), own)


def test_a_group_that_matched_nothing_is_no_number() -> None:
    with pytest.raises(Unusable, match="no number"):
        written_score(choice("fine"), settings(answer_pattern=r"fine(\d)?"))


def place(token: str, **probabilities: float) -> dict[str, Any]:
    """One token; `_4=0.5` stands for the token " 4"."""
    listed = [
        {"token": name.replace("_", " "), "logprob": log(value)}
        for name, value in probabilities.items()
    ]
    return {"token": token, "logprob": 0.0, "top_logprobs": listed}


def likely(*places: dict[str, Any]) -> dict[str, Any]:
    return choice("".join(one["token"] for one in places), logprobs={"content": list(places)})


def test_the_mean_is_over_the_scores_that_could_stand_there() -> None:
    # 4 at .35 + .05, 5 at .25 and 1 at .10; the rest is no score: (1.6 + 1.25 + .1) / .75.
    tokens = {"4": 0.35, "_4": 0.05, "5": 0.25, "1": 0.1, "The": 0.15, "7": 0.05, "0": 0.05}
    answer = likely(place("4", **tokens))
    assert expected_score(answer, settings(expected_score=True)) == pytest.approx(2.95 / 0.75)


def test_the_mean_is_taken_where_the_number_stands() -> None:
    own = settings(expected_score=True, answer_pattern=r"score:\s*(\d)")
    answer = likely(
        place("I see "),
        place("3", **{"3": 1.0}),
        place(" cats. Score:", **{"2": 1.0}),
        place(" 4", **{"_4": 0.5, "_2": 0.5}),
        place(".", **{"1": 1.0}),
    )
    assert expected_score(answer, own) == pytest.approx(3.0)


def test_a_number_written_without_being_likely_is_none() -> None:
    answer = likely(place("4", **{"The": 1.0}))
    with pytest.raises(Unusable, match="no score is among the likely tokens"):
        expected_score(answer, settings(expected_score=True))


@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": None}, {"logprobs": {"content": [{"token": "4"}]}}]
)
def test_a_service_without_probabilities_is_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="'judge' answers without top_logprobs; allowed: exp"):
        expected_score(choice("4", **fields), settings(expected_score=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lowest": 5}, "lowest 5 is not below highest 5"),
        ({"highest": 10, "expected_score": True}, "expected_score needs answers of one digit"),
        ({"answer_pattern": "(\\d"}, "answer_pattern is no regular expression"),
        ({"answer_pattern": "\\d"}, "answer_pattern has 0 groups, not one"),
        ({"url": "http://me:secret@host/v1"}, "String should match pattern"),
        ({"url": "file:///x"}, "String should match pattern"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)
