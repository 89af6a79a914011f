"""What takes long says how far it is, also where nobody knows the end."""

from __future__ import annotations

import pytest

from components.contracts import progress as module
from components.contracts.progress import progress


def test_lines_with_and_without_a_total(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for total, expected in (
        (4, ["work: 1/4  0:06 gone, 0:18 left", "work: 4/4  0:08 gone, 0:00 left"]),
        (None, ["work: 1  0:06 gone", "work: 3  0:12 gone  nearly"]),
    ):
        with progress("work", total) as bar:
            now[0] += 6
            bar.advance()
            now[0] += 1
            bar.advance()
            now[0] += 1 if total else 5
            bar.advance(2 if total else 1, "" if total else "nearly")
        assert capsys.readouterr().err.splitlines() == expected


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for total in (3, None):
        with progress("work", total) as bar:
            bar.advance(3)
    assert capsys.readouterr().err == ""
