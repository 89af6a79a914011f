"""GenEval's rules on detections written by hand, and the file that says what prompts ask for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from components.contracts.errors import DataError
from components.rewards.scorers.geneval_rules import (
    Box,
    Detection,
    Limits,
    Requirement,
    Task,
    agreement,
    correct,
    keep,
    overlap,
    relations,
)
from components.rewards.scorers.geneval_tasks import Tasks

LIMITS = Limits()


def seen(name: str, score: float = 0.95, box: Box = (0, 0, 9, 9), colour: str = "") -> Detection:
    """A detection whose colour stands where its mask would."""
    return Detection(name, score, box, mask=colour)


def painted(detections: Sequence[Detection]) -> list[str]:
    return [str(one.mask) for one in detections]


def verdicts(task: Task, *detections: Detection, limits: Limits = LIMITS) -> tuple[bool, float]:
    found = keep(detections, task, limits)
    return correct(found, task, painted, limits), agreement(found, task, painted, limits)


# --- detections that count ------------------------------------------------------------------------

DOG = Task("single_object", (Requirement("dog", 1),))


@pytest.mark.parametrize(("score", "there"), [(0.31, True), (0.3, False), (0.29, False)])
def test_a_detection_must_be_surer_than_the_threshold(score: float, there: bool) -> None:
    assert verdicts(DOG, seen("dog", score)) == (there, float(there))


@pytest.mark.parametrize(("score", "there"), [(0.91, True), (0.9, False), (0.5, False)])
def test_counting_asks_for_more(score: float, there: bool) -> None:
    task = Task("counting", (Requirement("dog", 1),))
    assert verdicts(task, seen("dog", score))[0] is there


def test_the_surest_come_first_and_no_more_than_the_most() -> None:
    scores = [0.4, 0.9, 0.6, 0.8]
    found = keep([seen("dog", score) for score in scores], DOG, Limits(max_objects=3))
    assert [one.score for one in found["dog"]] == [0.9, 0.8, 0.6]


def test_classes_that_nobody_asked_for_are_left_out() -> None:
    assert keep([seen("cat"), seen("dog")], DOG, LIMITS) == {"dog": [seen("dog")]}


def test_overlap_is_worked_by_hand() -> None:
    # Ten by ten pixels each, five by ten of them shared: 50 / 150.
    assert overlap((0, 0, 9, 9), (5, 0, 14, 9)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 9, 9), (0, 0, 9, 9)) == 1.0
    assert overlap((0, 0, 9, 9), (10, 0, 19, 9)) == 0.0
    # A box within another: 25 / 100.
    assert overlap((0, 0, 9, 9), (0, 0, 4, 4)) == 0.25
    # Away from the corner: 5 x 8 of them shared, of 10 x 10 and 6 x 9.
    a, b = (20, 30, 29, 39), (25, 32, 30, 40)
    assert overlap(a, b) == overlap(b, a) == pytest.approx(40 / (100 + 54 - 40))
    assert overlap((20, 30, 29, 39), (20, 50, 29, 59)) == 0.0
    # A box that is turned inside out has no area.
    assert overlap((9, 9, 0, 0), (9, 9, 0, 0)) == 0.0


def test_of_two_doubles_the_surer_stays() -> None:
    pair = [seen("dog", 0.8, (5, 0, 14, 9)), seen("dog", 0.9, (0, 0, 9, 9))]
    assert len(keep(pair, DOG, LIMITS)["dog"]) == 2
    assert len(keep(pair, DOG, Limits(max_overlap=0.34))["dog"]) == 2
    (left,) = keep(pair, DOG, Limits(max_overlap=0.33))["dog"]
    assert left.score == 0.9
    # A double of a double that went away stays: it is compared with what is kept.
    third = seen("dog", 0.7, (10, 0, 19, 9))
    kept = keep([*pair, third], DOG, Limits(max_overlap=0.33))["dog"]
    assert [one.score for one in kept] == [0.9, 0.7]


# --- where things are -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        # Ten wide each: the margin is 0.1 * (10 + 10) = 2 along each axis.
        ((20, 0, 30, 10), {"right of"}),  # (18, 0) / 20
        ((-20, 0, -10, 10), {"left of"}),
        ((0, 20, 10, 30), {"below"}),
        ((0, -20, 10, -10), {"above"}),
        ((20, 20, 30, 30), {"right of", "below"}),  # (18, 18) / 28.3 = (.64, .64)
        ((20, -10, 30, 0), {"right of"}),  # (18, 8) / 22.4 = (.80, .36)
        ((2, 0, 12, 10), set()),  # (0, 0): within the margin
        ((3, 0, 13, 10), set()),  # (1, 0) / 3 = .33
        ((5, 0, 15, 10), {"right of"}),  # (3, 0) / 5 = .60
        ((4, 0, 14, 10), set()),  # (2, 0) / 4 = .5: not more than half
        ((0, 0, 10, 10), set()),
    ],
)
def test_relations_are_worked_by_hand(box: Box, expected: set[str]) -> None:
    assert relations(box, (0, 0, 10, 10), 0.1) == expected


def test_a_large_object_must_be_further_away() -> None:
    # The centres are 25 apart. Sizes of 10 and 40: 25 - 5 = 20 of 25. With 100: 25 - 11 = 14 of 25;
    # with 140: 25 - 15 = 10 of 25, which is too little.
    for width, expected in [(40, {"left of"}), (100, {"left of"}), (140, set())]:
        other = (30 - width / 2, 0, 30 + width / 2, 10)
        assert relations((0, 0, 10, 10), other, 0.1) == expected
    assert relations((0, 0, 10, 10), (-40, 0, 100, 10), 0.0) == {"left of"}


def test_small_objects_are_told_apart_by_parts_of_a_pixel() -> None:
    # The centres are 0.6 apart, the margin is 0.1 * (1 + 1): 0.4 of 0.6.
    assert relations((0.6, 0, 1.6, 1), (0, 0, 1, 1), 0.1) == {"right of"}
    assert relations((0, 0.6, 1, 1.6), (0, 0, 1, 1), 0.1) == {"below"}
    # Less than a thousandth of a pixel is no distance.
    assert relations((0.0009, 0, 0.0009, 0), (0, 0, 0, 0), 0.1) == set()


# --- verdicts -------------------------------------------------------------------------------------

THREE = Task("counting", (Requirement("dog", 3),), (("dog", 4),))
RED_DOG = Task("colors", (Requirement("dog", 1, "red"),))
RED_AND_BLUE = Task("color_attr", (Requirement("dog", 1, "red"), Requirement("cat", 1, "blue")))
CAT_LEFT = Task("position", (Requirement("dog", 1), Requirement("cat", 1, None, ("left of", 0))))
LEFT, MIDDLE, RIGHT = (0, 0, 10, 10), (50, 0, 60, 10), (100, 0, 110, 10)


@pytest.mark.parametrize(
    ("count", "expected"),
    # |3 - n| / 3 off, at least 0; a fourth dog is one too many.
    [(0, (False, 0.0)), (1, (False, 1 / 3)), (2, (False, 2 / 3)), (3, (True, 1.0)),
     (4, (False, 2 / 3)), (6, (False, 0.0)), (9, (False, 0.0))],
)  # fmt: skip
def test_three_dogs(count: int, expected: tuple[bool, float]) -> None:
    assert verdicts(THREE, *[seen("dog")] * count) == pytest.approx(expected)


def test_more_than_asked_for_does_no_harm_unless_it_is_excluded() -> None:
    task = Task("single_object", (Requirement("dog", 2),))
    assert verdicts(task, *[seen("dog")] * 3) == (True, 0.5)


def test_two_kinds_must_both_be_there() -> None:
    task = Task("two_object", (Requirement("dog", 1), Requirement("cat", 1)))
    assert verdicts(task, seen("dog"), seen("cat")) == (True, 1.0)
    assert verdicts(task, seen("dog")) == (False, 0.5)
    assert verdicts(task) == (False, 0.0)


def test_a_colour_is_that_of_the_surest() -> None:
    assert verdicts(RED_DOG, seen("dog", colour="red")) == (True, 1.0)
    # There, but of another colour: one of two terms.
    assert verdicts(RED_DOG, seen("dog", colour="blue")) == (False, 0.5)
    # Two dogs: GenEval looks at the surer; one too many has no colour term: (0 + 0) / 2.
    pair = [seen("dog", 0.8, colour="blue"), seen("dog", 0.9, colour="red")]
    assert verdicts(RED_DOG, *pair) == (True, 0.0)
    pair = [seen("dog", 0.9, colour="blue"), seen("dog", 0.8, colour="red")]
    assert verdicts(RED_DOG, *pair) == (False, 0.0)
    assert verdicts(RED_DOG) == (False, 0.0)


def test_each_of_several_must_have_the_colour() -> None:
    task = Task("colors", (Requirement("dog", 2, "red"),))
    assert verdicts(task, *[seen("dog", colour="red")] * 2) == (True, 1.0)
    # Number right, half of the colours right: (1 + 1/2) / 2.
    assert verdicts(task, seen("dog", colour="red"), seen("dog", colour="blue")) == (False, 0.75)


def test_colours_that_changed_places_are_wrong() -> None:
    dog, cat = seen("dog", colour="blue"), seen("cat", colour="red")
    assert verdicts(RED_AND_BLUE, dog, cat) == (False, 0.5)
    dog, cat = seen("dog", colour="red"), seen("cat", colour="blue")
    assert verdicts(RED_AND_BLUE, dog, cat) == (True, 1.0)


def test_colours_are_asked_for_only_where_they_matter() -> None:
    def nobody(detections: Sequence[Detection]) -> list[str]:
        raise AssertionError("no colour matters here")

    for task in (DOG, RED_DOG):
        found = keep([], task, LIMITS)
        assert not correct(found, task, nobody, LIMITS)
        assert agreement(found, task, nobody, LIMITS) == 0.0
    found = keep([seen("dog")], DOG, LIMITS)
    assert correct(found, DOG, nobody, LIMITS)


def test_a_cat_left_of_a_dog() -> None:
    assert verdicts(CAT_LEFT, seen("dog", box=RIGHT), seen("cat", box=LEFT)) == (True, 1.0)
    # Dog, cat and not the place: 2 / 3.
    wrong = verdicts(CAT_LEFT, seen("dog", box=LEFT), seen("cat", box=RIGHT))
    assert wrong == pytest.approx((False, 2 / 3))
    # Without a dog there is nothing to be left of: the cat alone is 1 / 3.
    assert verdicts(CAT_LEFT, seen("cat", box=LEFT)) == pytest.approx((False, 1 / 3))


def test_every_object_must_be_left_of_every_target() -> None:
    cats = Requirement("cat", 1, None, ("left of", 0))
    task = Task("position", (Requirement("dog", 2), cats))
    dogs = [seen("dog", box=LEFT), seen("dog", box=RIGHT)]
    assert verdicts(task, *dogs, seen("cat", box=MIDDLE))[0] is False
    assert verdicts(task, *dogs, seen("cat", box=(-100, 0, -90, 10))) == (True, 1.0)


def test_a_target_of_the_wrong_colour_is_none() -> None:
    cat = Requirement("cat", 1, None, ("left of", 0))
    task = Task("position", (Requirement("dog", 1, "red"), cat))
    blue = seen("dog", box=RIGHT, colour="blue")
    # Terms: dog 1, red 0, cat 1, left of nothing 0.
    assert verdicts(task, blue, seen("cat", box=LEFT)) == (False, 0.5)


def test_a_colour_must_be_right_before_the_place_counts() -> None:
    cat = Requirement("cat", 1, "blue", ("left of", 0))
    task = Task("position", (Requirement("dog", 1), cat))
    dog = seen("dog", box=RIGHT)
    assert verdicts(task, dog, seen("cat", box=LEFT, colour="blue")) == (True, 1.0)
    # Terms: dog 1, cat 1, blue 0, left of 0.
    assert verdicts(task, dog, seen("cat", box=LEFT, colour="red")) == (False, 0.5)


def test_what_must_not_be_there_counts_against() -> None:
    task = Task("single_object", (Requirement("dog", 1),), (("cat", 1),))
    assert task.names == ("dog", "cat")
    assert verdicts(task, seen("dog")) == (True, 1.0)
    assert verdicts(task, seen("dog"), seen("cat")) == (False, 0.5)


# --- the file of tasks ----------------------------------------------------------------------------


def write(folder: Path, *rows: Any) -> Path:
    file = folder / "tasks.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


def row(**changes: Any) -> dict[str, Any]:
    include = [{"class": "dog", "count": 1, "color": "red"}]
    return {"tag": "colors", "include": include, "prompt": "a red dog", **changes}


def test_tasks_are_found_by_their_prompt(tmp_path: Path) -> None:
    place = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}]
    many = {"include": [{"class": "dog", "count": 3}], "exclude": [{"class": "dog", "count": 4}]}
    file = write(
        tmp_path,
        row(),
        "",
        row(tag="position", include=place, prompt="a cat left of a dog"),
        row(tag="counting", prompt="three dogs", **many),
        row(),  # once more, and the same
    )
    tasks = Tasks.read(file)
    found = tasks.of(["three dogs", "a red dog", "a cat left of a dog", "a red dog"])
    assert found == [THREE, RED_DOG, CAT_LEFT, RED_DOG]
    assert tasks.names == ["cat", "dog"]
    assert tasks.coloured
    assert not Tasks.read(write(tmp_path, row(include=place))).coloured


def test_a_prompt_without_a_task_is_one_line(tmp_path: Path) -> None:
    tasks = Tasks.read(write(tmp_path, row()))
    message = (
        r"tasks.jsonl: has no task for 2 prompts, the first is 'a Red dog'; allowed: its 1 pro"
    )
    with pytest.raises(DataError, match=message):
        tasks.of(["a red dog", "a Red dog", "a fox", "a fox"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is no task"),
        ("[]", "line 2: is no task"),
        ({"tag": "colors", "prompt": "x"}, r"line 2: is no task \('include'\); allowed: json with"),
        (row(include=[{"class": "dog", "count": 0}]), r"\(count 0\)"),
        (row(include=[{"class": "dog", "count": True}]), r"\(count True\)"),
        (row(include=[{"class": "dog", "count": "2"}]), r"\(count '2'\)"),
        (row(include=[{"class": "dog", "count": 1, "color": "teal"}]), "'teal' is none of red, or"),
        (row(include=[{"class": "dog", "count": 1, "size": "big"}]), "unknown key 'size'"),
        (row(include=[{"class": "dog", "count": 1, "position": ["left of", 0]}]), "number 0 of 0"),
        (row(include=[]), "asks for nothing"),
        (row(include=[], exclude=[{"class": "dog", "count": 1, "color": "red"}]), "key 'color'"),
        (row(tag="counting"), "prompt 'a red dog' has another task above"),
    ],
)
def test_a_line_that_is_no_task_is_named(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Tasks.read(write(tmp_path, row(), line))


@pytest.mark.parametrize("position", [["behind", 0], ["above", 1], ["above", -1], ["above"]])
def test_a_position_that_is_none_is_named(tmp_path: Path, position: list[Any]) -> None:
    include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": position}]
    with pytest.raises(DataError, match="line 1: is no task"):
        Tasks.read(write(tmp_path, row(include=include)))


def test_a_file_that_is_missing_or_empty_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tasks.jsonl: no such file"):
        Tasks.read(tmp_path / "tasks.jsonl")
    with pytest.raises(DataError, match=r"tasks.jsonl: has no tasks"):
        Tasks.read(write(tmp_path, ""))
    (tmp_path / "tasks.jsonl").write_bytes(b'{"tag": "\xff"}')
    with pytest.raises(DataError, match=r"tasks.jsonl: byte 9: is not UTF-8"):
        Tasks.read(tmp_path / "tasks.jsonl")
