"""What each prompt asks for, out of a file in the layout of GenEval's `evaluation_metadata.jsonl`.

{"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "..."}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.contracts.errors import DataError
from components.rewards.scorers.geneval_rules import COLOURS, RELATIONS, Requirement, Task


class Tasks:
    """Tasks by prompt."""

    def __init__(self, tasks: Mapping[str, Task], file: Path) -> None:
        self._tasks, self._file = tasks, file

    @classmethod
    def read(cls, file: Path) -> Tasks:
        """One task a line.

        Raises:
            DataError: the file is missing, empty, or a line is no task; two lines say different
                things of one prompt.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise DataError("no such file", file=file) from None
        except UnicodeDecodeError as error:
            raise DataError("is not UTF-8", file=file, place=f"byte {error.start}") from None
        tasks: dict[str, Task] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                prompt, task = str(row["prompt"]), _task(row)
                if tasks.setdefault(prompt, task) != task:
                    raise ValueError(f"prompt '{prompt}' has another task above")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(
                    f"is no task ({error})", file=file, place=f"line {number}", allowed=ALLOWED
                ) from None
        if not tasks:
            raise DataError("has no tasks", file=file, allowed=ALLOWED)
        return cls(tasks, file)

    def of(self, prompts: Sequence[str]) -> list[Task]:
        """The task of each prompt.

        Raises:
            DataError: a prompt has none.
        """
        lacking = [prompt for prompt in prompts if prompt not in self._tasks]
        if lacking:
            raise DataError(
                f"has no task for {len(set(lacking))} prompts, the first is '{lacking[0]}'",
                file=self._file,
                allowed=f"its {len(self._tasks)} prompts, letter by letter",
            )
        return [self._tasks[prompt] for prompt in prompts]

    @property
    def names(self) -> list[str]:
        """Every class that a task speaks of, in alphabetical order."""
        return sorted({name for task in self._tasks.values() for name in task.names})

    @property
    def coloured(self) -> bool:
        """Whether any task asks for a colour."""
        return any(wanted.colour for task in self._tasks.values() for wanted in task.include)


ALLOWED = (
    "json with prompt, tag, include (class, count, color, position) and exclude (class, count)"
)


def _task(row: Mapping[str, Any]) -> Task:
    include: list[Requirement] = []
    for entry in row["include"]:
        _refuse_others(entry, {"class", "count", "color", "position"})
        include.append(
            Requirement(
                name=str(entry["class"]),
                count=_count(entry),
                colour=_one_of(entry.get("color"), COLOURS),
                position=_position(entry.get("position"), len(include)),
            )
        )
    exclude = []
    for entry in row.get("exclude", []):
        _refuse_others(entry, {"class", "count"})
        exclude.append((str(entry["class"]), _count(entry)))
    if not include and not exclude:
        raise ValueError("asks for nothing")
    return Task(str(row["tag"]), tuple(include), tuple(exclude))


def _refuse_others(entry: Mapping[str, Any], known: set[str]) -> None:
    # A rule that is passed over would be a reward for pictures that break it.
    unknown = sorted(set(entry) - known)
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}'")


def _count(entry: Mapping[str, Any]) -> int:
    count = entry["count"]
    if type(count) is not int or count < 1:
        raise ValueError(f"count {count!r}")
    return count


def _one_of(word: str | None, words: Sequence[str]) -> str | None:
    if word is not None and word not in words:
        raise ValueError(f"'{word}' is none of {', '.join(words)}")
    return word


def _position(position: Any, earlier: int) -> tuple[str, int] | None:
    if position is None:
        return None
    relation, target = position
    if type(target) is not int or not 0 <= target < earlier:
        raise ValueError(f"position relative to number {target!r} of {earlier} earlier ones")
    _one_of(relation, RELATIONS)
    return relation, target
