"""Single annotators: by hand, against a published estimate, and against planted error rates."""

from __future__ import annotations

import random

import numpy as np
import pytest

from components.contracts.intervals import wilson_interval
from components.preferences.reliability import (
    Answer,
    dawid_skene,
    leave_one_out,
    reliability_rows,
)

PATIENTS = """111 1 1 1 1;333 4 3 3 4;112 2 1 2 2;222 3 1 2 1;222 3 2 2 2;222 3 3 2 2;122 2 1 1 1;
    333 3 4 3 3;222 2 2 2 3;232 2 2 2 3;444 4 4 4 4;222 3 3 4 3;111 1 1 1 1;222 3 2 1 2;121 1 1 1 1;
    111 2 1 1 1;111 1 1 1 1;111 1 1 1 1;222 2 2 2 1;222 1 3 2 2;222 2 2 2 2;222 2 2 2 1;222 3 2 2 2;
    221 2 2 2 2;111 1 1 1 1;111 1 1 1 1;232 2 2 2 2;111 1 1 1 1;111 1 1 1 1;112 1 1 2 1;111 1 1 1 1;
    333 3 2 3 3;111 1 1 1 1;222 2 2 2 2;222 3 2 3 2;433 4 3 4 3;221 2 2 3 2;232 3 2 3 3;333 3 4 3 2;
    111 1 1 1 1;111 1 1 1 1;121 2 1 1 1;232 2 2 2 2;121 1 1 1 1;222 2 2 2 2"""
"""Dawid & Skene (1979), table 1: 45 patients, five observers, the first of whom looked thrice."""


def _answers(table: str) -> list[Answer]:
    return [
        (f"unit {number}", f"observer {column}", value)
        for number, row in enumerate(table.split(";"))
        for column, cell in enumerate(row.split(), start=1)
        for value in cell
    ]


def test_leave_one_out_by_hand() -> None:
    # Unit 0: the others of 1 and of 2 are divided; those of 3 say a twice, and 3 is wrong.
    # Unit 1: everybody is right. Unit 2: nobody else is there.
    found = leave_one_out([*_answers("a a b;c c c"), ("alone", "observer 1", "x")])
    assert {name: (row.agreement, row.count) for name, row in found.items()} == {
        "observer 1": (1.0, 1),
        "observer 2": (1.0, 1),
        "observer 3": (0.5, 2),
    }
    row = found["observer 3"]
    assert (row.low, row.high) == wilson_interval(0.5, 2)
    assert leave_one_out([("alone", "x", "a")]) == {}


def test_dawid_and_skenes_own_example() -> None:
    found = dawid_skene(_answers(PATIENTS))
    assert found is not None and found.values == ("1", "2", "3", "4")
    # Their table 2.
    assert found.prior.round(2).tolist() == [0.40, 0.42, 0.11, 0.07]
    assert found.confusion["observer 1"].round(2).tolist() == [
        [0.89, 0.11, 0.00, 0.00],
        [0.07, 0.88, 0.05, 0.00],
        [0.00, 0.34, 0.66, 0.00],
        [0.00, 0.00, 0.56, 0.44],
    ]
    expected = 0.40 * 0.89 + 0.42 * 0.88 + 0.11 * 0.66 + 0.07 * 0.44
    assert found.accuracy("observer 1") == pytest.approx(expected, abs=0.01)


def test_the_likelihood_never_falls() -> None:
    likelihood = []
    for rounds in range(1, 12):
        found = dawid_skene(_answers(PATIENTS), max_rounds=rounds)
        assert found is not None and found.num_rounds == rounds
        likelihood.append(found.log_likelihood)
    assert likelihood == sorted(likelihood) and likelihood[0] < likelihood[-1]


def test_planted_error_rates_are_found_though_the_truth_is_not_told() -> None:
    generator = random.Random(0)
    errs = {"Ann": 0.05, "Bob": 0.1, "Cy": 0.2, "Dee": 0.3, "Eve": 0.45}
    answers: list[Answer] = []
    for unit in range(3000):
        truth = generator.choice("ab")
        for name in generator.sample(sorted(errs), 3):
            wrong = generator.random() < errs[name]
            answers.append((f"{unit}", name, "ab".replace(truth, "") if wrong else truth))
    found = dawid_skene(answers)
    assert found is not None
    for name, rate in errs.items():
        assert found.accuracy(name) == pytest.approx(1 - rate, abs=0.03)
    # Against the others' votes a good annotator looks worse: the others err too.
    assert leave_one_out(answers)["Ann"].agreement < 0.9 < found.accuracy("Ann")


def test_the_order_of_the_answers_does_not_matter() -> None:
    answers = _answers(PATIENTS)
    shuffled = random.Random(1).sample(answers, len(answers))
    one, two = dawid_skene(answers), dawid_skene(shuffled)
    assert one is not None and two is not None
    for name, matrix in one.confusion.items():
        np.testing.assert_allclose(matrix, two.confusion[name], atol=1e-9)


def test_rows_for_a_report() -> None:
    rows = reliability_rows([*_answers("a a b;c c c"), ("alone", "stranger", "a")])
    assert [row["annotator"] for row in rows] == [
        "observer 1",
        "observer 2",
        "observer 3",
        "stranger",
    ]
    assert rows[2]["judgements"] == rows[2]["compared"] == 2 and rows[2]["agreement"] == 0.5
    assert rows[3]["agreement"] is None and rows[3]["compared"] == 0
    assert rows[0]["accuracy"] > rows[2]["accuracy"]
    assert reliability_rows([]) == [] and dawid_skene([]) is None
