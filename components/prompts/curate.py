"""Which prompts are kept, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from components.contracts.errors import DataError, QuarantinedData
from components.contracts.ids import prompt_id
from components.contracts.rows import read_rows
from components.contracts.text import clean_prompt, has_invisible, prompt_key
from components.prompts.settings import Settings, SourceSettings

REASONS = ("empty", "not_text", "invisible_characters", "too_long")
"""Why a row is dropped: nothing is left of it, it is no string, hides characters, is too long."""


@dataclass(frozen=True)
class Prompt:
    """A cleaned prompt."""

    prompt: str
    category: str
    source: str

    @property
    def prompt_id(self) -> str:
        """The content hash that joins the tables."""
        return prompt_id(self.prompt)


@dataclass(frozen=True)
class Dropped:
    """A row that was not kept: where it stands, and one of `REASONS`."""

    source: str
    place: str
    reason: str


@dataclass
class Curated:
    """What became of the rows of all sources."""

    num_rows: int = 0
    kept: list[Prompt] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    num_duplicates: int = 0

    def dropped_by_reason(self) -> dict[str, int]:
        """Number of dropped rows for every reason, also those that did not occur."""
        found = Counter(row.reason for row in self.dropped)
        return {reason: found[reason] for reason in REASONS}


def curate(settings: Settings, root: Path) -> Curated:
    """Read, clean and deduplicate all sources.

    Raises:
        DataError: a source cannot be read, or nothing is left to keep.
        QuarantinedData: too large a share of the rows was dropped.
    """
    curated = Curated()
    seen: set[str] = set()
    for source in settings.sources:
        for place, text, category in _read_source(source, root):
            curated.num_rows += 1
            reason = _reason_to_drop(text, settings)
            if reason:
                curated.dropped.append(Dropped(source.path, place, reason))
                continue
            prompt = clean_prompt(str(text))
            key = prompt_key(prompt)
            if key in seen:
                curated.num_duplicates += 1
                continue
            seen.add(key)
            curated.kept.append(Prompt(prompt, category, source.path))
    _refuse_bad_sources(curated, settings)
    return curated


def _read_source(source: SourceSettings, root: Path) -> Iterable[tuple[str, object, str]]:
    category_columns = [source.category_column] if source.category_column else []
    for row in read_rows(root / source.path, [source.column, *category_columns]):
        named = row.values.get(source.category_column or "")
        category = clean_prompt(str(named)) if named is not None else ""
        yield row.place, row.values[source.column], category or source.category


def _reason_to_drop(text: object, settings: Settings) -> str:
    if text is None:
        return "empty"
    if not isinstance(text, str):
        return "not_text"
    if settings.invisible_characters == "refuse" and has_invisible(text):
        return "invisible_characters"
    prompt = clean_prompt(text)
    if not prompt:
        return "empty"
    return "too_long" if len(prompt) > settings.max_characters else ""


def _refuse_bad_sources(curated: Curated, settings: Settings) -> None:
    fraction = len(curated.dropped) / curated.num_rows
    if fraction > settings.max_dropped_fraction:
        reasons = ", ".join(f"{r} {n}" for r, n in curated.dropped_by_reason().items() if n)
        first = curated.dropped[0]
        raise QuarantinedData(
            f"{len(curated.dropped)} of {curated.num_rows} prompts were dropped ({reasons}; "
            f"first: {first.source}: {first.place}: {first.reason}); allowed: a share of "
            f"{settings.max_dropped_fraction:g} (prompts.max_dropped_fraction), prompts of 1 to "
            f"{settings.max_characters} characters"
        )
    if not curated.kept:
        raise DataError("no prompt is left", file=settings.sources[0].path)
