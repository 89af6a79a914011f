"""Single annotators: by hand, against a published estimate, and against planted error rates."""

from __future__ import annotations

import numpy as np
import pytest

from components.contracts.intervals import wilson_interval
from components.preferences.reliability import dawid_skene, leave_one_out, reliability_rows

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

PATIENTS = """111 1 1 1 1;333 4 3 3 4;112 2 1 2 2;222 3 1 2 1;222 3 2 2 2;222 3 3 2 2;122 2 1 1 1;
    333 3 4 3 3;222 2 2 2 3;232 2 2 2 3;444 4 4 4 4;222 3 3 4 3;111 1 1 1 1;222 3 2 1 2;121 1 1 1 1;
    111 2 1 1 1;111 1 1 1 1;111 1 1 1 1;222 2 2 2 1;222 1 3 2 2;222 2 2 2 2;222 2 2 2 1;222 3 2 2 2;
    221 2 2 2 2;111 1 1 1 1;111 1 1 1 1;232 2 2 2 2;111 1 1 1 1;111 1 1 1 1;112 1 1 2 1;111 1 1 1 1;
    333 3 2 3 3;111 1 1 1 1;222 2 2 2 2;222 3 2 3 2;433 4 3 4 3;221 2 2 3 2;232 3 2 3 3;333 3 4 3 2;
    111 1 1 1 1;111 1 1 1 1;121 2 1 1 1;232 2 2 2 2;121 1 1 1 1;222 2 2 2 2"""
"""Dawid & Skene (1979), table 1: 45 patients, five observers, the first of whom looked thrice."""


def _answers(table: str, values: str) -> Arrays:
    """Units are rows, annotators columns; each character is an answer."""
    rows = [
        (unit, annotator, values.index(value))
        for unit, row in enumerate(table.split(";"))
        for annotator, cell in enumerate(row.split())
        for value in cell
    ]
    unit, annotator, value = np.array(rows).T
    return unit, annotator, value


def _without(arrays: Arrays, rows: list[int]) -> Arrays:
    return tuple(np.delete(array, rows) for array in arrays)  # type: ignore[return-value]


def test_leave_one_out_by_hand() -> None:
    # Unit 0: the others of 0 and of 1 are divided; those of 2 say a twice, and 2 is wrong.
    # Unit 1: everybody is right. Unit 2: nobody else is there.
    found = leave_one_out(*_without(_answers("a a b;c c c;a a a", "abc"), [7, 8]))
    assert {name: (row.agreement, row.count) for name, row in found.items()} == {
        0: (1.0, 1),
        1: (1.0, 1),
        2: (0.5, 2),
    }
    assert (found[2].low, found[2].high) == wilson_interval(0.5, 2)
    assert leave_one_out(*_answers("a;b", "ab")) == {}


def test_dawid_and_skenes_own_example() -> None:
    found = dawid_skene(*_answers(PATIENTS, "1234"))
    assert found is not None
    # Their table 2.
    assert found.prior.round(2).tolist() == [0.40, 0.42, 0.11, 0.07]
    assert found.confusion[0].round(2).tolist() == [
        [0.89, 0.11, 0.00, 0.00],
        [0.07, 0.88, 0.05, 0.00],
        [0.00, 0.34, 0.66, 0.00],
        [0.00, 0.00, 0.56, 0.44],
    ]
    expected = 0.40 * 0.89 + 0.42 * 0.88 + 0.11 * 0.66 + 0.07 * 0.44
    assert found.accuracy[0] == pytest.approx(expected, abs=0.01)


def test_the_likelihood_never_falls() -> None:
    likelihood = []
    for rounds in range(1, 12):
        found = dawid_skene(*_answers(PATIENTS, "1234"), max_rounds=rounds)
        assert found is not None and found.num_rounds == rounds
        likelihood.append(found.log_likelihood)
    assert likelihood == sorted(likelihood) and likelihood[0] < likelihood[-1]


def test_planted_error_rates_are_found_though_the_truth_is_not_told() -> None:
    generator = np.random.default_rng(0)
    rates = np.array([0.05, 0.1, 0.2, 0.3, 0.45])
    unit = np.arange(9000) // 3
    annotator = np.concatenate([generator.permutation(5)[:3] for _ in range(3000)])
    truth = generator.integers(0, 2, 3000)[unit]
    value = truth ^ (generator.random(9000) < rates[annotator])
    found = dawid_skene(unit, annotator, value)
    assert found is not None
    np.testing.assert_allclose(found.accuracy, 1 - rates, atol=0.03)
    # Against the others' votes a good annotator looks worse: the others err too.
    assert leave_one_out(unit, annotator, value)[0].agreement < 0.9 < found.accuracy[0]


def test_the_order_of_the_answers_does_not_matter() -> None:
    answers = _answers(PATIENTS, "1234")
    shuffled = np.random.default_rng(1).permutation(len(answers[0]))
    one = dawid_skene(*answers)
    two = dawid_skene(*(array[shuffled] for array in answers))
    assert one is not None and two is not None
    np.testing.assert_allclose(one.confusion, two.confusion, atol=1e-9)


def test_rows_for_a_report() -> None:
    unit, annotator, value = _answers("a a b;c c c;a a a", "abc")
    annotator = np.where(unit == 2, 3, annotator)  # somebody who is alone with the last unit
    names = ["Zoe", "Ann", "Bob", "Cy", "nobody"]
    rows = reliability_rows(names, *_without((unit, annotator, value), [7, 8]))
    assert [row["annotator"] for row in rows] == ["Ann", "Bob", "Cy", "Zoe"]
    bob, cy, zoe = rows[1:]
    assert bob["judgements"] == bob["compared"] == 2 and bob["agreement"] == 0.5
    assert (cy["agreement"], cy["compared"], cy["judgements"]) == (None, 0, 1)
    assert zoe["accuracy"] > bob["accuracy"]
    nothing = np.zeros(0, int)
    assert reliability_rows(["Ann"], nothing, nothing, nothing) == []
    assert dawid_skene(nothing, nothing, nothing) is None
