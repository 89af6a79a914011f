"""Does a picture show what its prompt asks for? The rules of GenEval, without any network.

GenEval (2310.11513) judges detected objects: enough of each class, of the right colour, on the
right side of each other, and none that must not be there. The rules are those of its official
evaluation (`evaluate_images.py`); `agreement` gives part of the credit, as Flow-GRPO's reward
server does. Boxes are in pixels, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
"""What GenEval calls an object's colour."""
RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Detection:
    """One object that a detector found."""

    name: str
    """Its class."""
    score: float
    """How sure the detector is, in [0, 1]."""
    box: Box
    mask: Any = None
    """Where the object covers the picture, bool [h, w], from a detector that knows."""


@dataclass(frozen=True)
class Requirement:
    """Something that must be there."""

    name: str
    """Class."""
    count: int
    """How many of it."""
    colour: str | None = None
    """One of `COLOURS`, of each of them."""
    position: tuple[str, int] | None = None
    """One of `RELATIONS`, and the number of the earlier requirement that it is relative to."""


@dataclass(frozen=True)
class Task:
    """What one prompt asks for."""

    tag: str
    """Kind of the task: in `counting` only sure detections count."""
    include: tuple[Requirement, ...]
    """What must be there, all of it."""
    exclude: tuple[tuple[str, int], ...] = ()
    """Classes of which so many or more must not be there."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that matter, each once."""
        return tuple(dict.fromkeys([*(one.name for one in self.include), *dict(self.exclude)]))


@dataclass(frozen=True)
class Limits:
    """The numbers of the rules; GenEval's own are the defaults."""

    threshold: float = 0.3
    """A detection must be surer than this."""
    counting_threshold: float = 0.9
    """As `threshold`, where the task is to count."""
    max_objects: int = 16
    """Most objects of one class."""
    max_overlap: float = 1.0
    """Intersection over union from which the less sure of two objects is a double; 1 is off."""
    position_margin: float = 0.1
    """Share of the two sizes by which centres must be apart to be beside each other."""


Found = dict[str, list[Detection]]
"""Detections of each class, the surest first."""
ColourOf = Callable[[Sequence[Detection]], list[str]]
"""The colour of each of some detections of one class."""


def keep(detections: Sequence[Detection], task: Task, limits: Limits) -> Found:
    """The detections that count for a task: sure enough, not too many, no doubles."""
    threshold = limits.counting_threshold if task.tag == "counting" else limits.threshold
    found: Found = {}
    for name in task.names:
        sure = [one for one in detections if one.name == name and one.score > threshold]
        sure = sorted(sure, key=lambda one: -one.score)[: limits.max_objects]
        found[name] = _without_doubles(sure, limits.max_overlap)
    return found


def overlap(a: Box, b: Box) -> float:
    """Intersection over union; a box from pixel 0 to pixel 9 is ten pixels wide."""
    shared = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - shared
    return shared / union if union else 0.0


def relations(a: Box, b: Box, margin: float) -> set[str]:
    """Where `a` lies as seen from `b`: none, one or two of `RELATIONS`.

    Along each axis the centres are moved towards each other by `margin` times the sum of the two
    sizes; a relation holds where what is left is more than half of the distance between centres.
    """
    offset = [(a[axis] + a[axis + 2] - b[axis] - b[axis + 2]) / 2 for axis in (0, 1)]
    sizes = [abs(a[axis + 2] - a[axis]) + abs(b[axis + 2] - b[axis]) for axis in (0, 1)]
    left = [max(abs(o) - margin * size, 0.0) for o, size in zip(offset, sizes, strict=True)]
    if max(left) < 1e-3:
        return set()
    distance = (offset[0] ** 2 + offset[1] ** 2) ** 0.5
    held = set()
    for axis, (before, after) in enumerate((RELATIONS[:2], RELATIONS[2:])):
        if left[axis] / distance > 0.5:
            held.add(before if offset[axis] < 0 else after)
    return held


def correct(found: Found, task: Task, colours: ColourOf, limits: Limits) -> bool:
    """GenEval's verdict: everything that must be there is, and nothing that must not.

    More objects than asked for do no harm where `exclude` does not say so; the surest are looked
    at.
    """
    groups: list[list[Detection] | None] = []
    for wanted in task.include:
        seen = found[wanted.name][: wanted.count]
        fits = len(seen) == wanted.count
        if fits and wanted.colour:
            fits = colours(seen) == [wanted.colour] * wanted.count
        if fits and wanted.position:
            fits = _in_place(seen, groups, wanted.position, limits.position_margin)
        groups.append(seen if fits else None)
    too_many = any(len(found[name]) >= count for name, count in task.exclude)
    return None not in groups and not too_many


def agreement(found: Found, task: Task, colours: ColourOf, limits: Limits) -> float:
    """The share of what was asked for that is there, in [0, 1], as Flow-GRPO rewards it.

    Each requirement has a term for its count, 1 - |asked - seen| / asked and at least 0, one for
    its colour, the share of its objects that have it, and one for its position, 0 or 1; colour and
    position count as 0 until the number is exactly right. A class that is only excluded has a term
    of its own. Two things differ from Flow-GRPO's server: there a wrong position adds a 1 behind
    its 0, and a count can fall below 0.
    """
    terms: list[float] = []
    groups: list[list[Detection] | None] = []
    for wanted in task.include:
        seen = found[wanted.name]
        terms.append(max(0.0, 1 - abs(wanted.count - len(seen)) / wanted.count))
        fits = len(seen) == wanted.count
        if wanted.colour:
            right = colours(seen).count(wanted.colour) / wanted.count if fits else 0.0
            terms.append(right)
            fits = right == 1
        if wanted.position:
            fits = fits and _in_place(seen, groups, wanted.position, limits.position_margin)
            terms.append(float(fits))
        groups.append(seen if fits else None)
    included = {wanted.name for wanted in task.include}
    terms += [
        float(len(found[name]) < count) for name, count in task.exclude if name not in included
    ]
    return sum(terms) / len(terms)


def _in_place(
    seen: Sequence[Detection],
    groups: Sequence[list[Detection] | None],
    position: tuple[str, int],
    margin: float,
) -> bool:
    relation, number = position
    target = groups[number]
    if target is None:
        return False
    return all(relation in relations(a.box, b.box, margin) for a in seen for b in target)


def _without_doubles(sure: list[Detection], max_overlap: float) -> list[Detection]:
    kept: list[Detection] = []
    for one in sure:
        if max_overlap == 1 or all(overlap(other.box, one.box) < max_overlap for other in kept):
            kept.append(one)
    return kept


def _area(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)
