"""How a page writes its figures: shares, differences, intervals, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

NBSP, MINUS = "\u00a0", "\u2212"
UNKNOWN = "not known"


def percent(share: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return UNKNOWN if share is None else _signed(f"{100 * share:.{digits}f}") + f"{NBSP}%"


def error_percent(share: float | None) -> str:
    """A small error rate with enough digits to tell it from none."""
    return UNKNOWN if share is None else f"{100 * share:.2g}{NBSP}%"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, always signed."""
    return UNKNOWN if difference is None else _signed(f"{100 * difference:+.1f}")


def signed(value: float | None, digits: int = 2) -> str:
    """A number that always shows its sign."""
    return UNKNOWN if value is None else _signed(f"{value:+.{digits}f}")


def interval(ends: Sequence[float | None], form: Callable[[float | None], str]) -> str:
    """Both ends of an interval in square brackets."""
    low, high = ends
    return UNKNOWN if low is None or high is None else f"[{form(low)}, {form(high)}]"


def points_interval(ends: Sequence[float | None]) -> str:
    """An interval of percentage points."""
    return interval(ends, points)


def percent_interval(ends: Sequence[float | None]) -> str:
    """An interval of shares; the sign for percent stands once."""
    return interval(ends, lambda end: percent(end).removesuffix(f"{NBSP}%"))


def signed_interval(ends: Sequence[float | None]) -> str:
    """An interval of plain differences."""
    return interval(ends, signed)


def count(value: float) -> str:
    """A whole number in groups of three digits."""
    return f"{value:,.0f}".replace(",", "\u2009")


def decimal(value: float | None, digits: int = 2) -> str:
    """A plain number."""
    return UNKNOWN if value is None else _signed(f"{value:.{digits}f}")


def plural(number: int, word: str) -> str:
    """`1 prompt`, `2 prompts`."""
    return f"{count(number)}{NBSP}{word}{'' if number == 1 else 's'}"


def flattened(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every setting in a tree of them as a row: its dotted name below `name`, and its value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and len(value) > 8:
        yield name, f"{len(value)} entries"
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value))
    elif value is not None:
        yield name, str(value).lower() if isinstance(value, bool) else str(value)


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def _signed(text: str) -> str:
    """A true minus sign, which is as wide as the plus; no sign on a zero."""
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


FILTERS: dict[str, Callable[..., str]] = {
    "percent": percent,
    "error_percent": error_percent,
    "points": points,
    "signed": signed,
    "points_interval": points_interval,
    "percent_interval": percent_interval,
    "signed_interval": signed_interval,
    "decimal": decimal,
    "count": count,
    "plural": plural,
}
"""By the name that a template calls them by."""
