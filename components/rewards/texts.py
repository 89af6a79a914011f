"""A million texts without a million objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import pyarrow as pa


class Texts(Sequence[str]):
    """Texts in one block of memory, made into strings when they are asked for."""

    def __init__(self, column: pa.StringArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            return Texts(self._column[place])
        text: str = self._column[place].as_py()
        return text
