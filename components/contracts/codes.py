"""Texts that repeat a million times, such as the names of annotators, as small numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Codes:
    """Numbers texts in the order in which they are first met."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._codes = {name: number for number, name in enumerate(names)}

    @property
    def names(self) -> tuple[str, ...]:
        """The text of each number."""
        return tuple(self._codes)

    def encode(self, column: pa.StringArray) -> np.ndarray:
        """int32 number of each text, [n]."""
        import numpy as np

        found = column.dictionary_encode()
        codes = [
            self._codes.setdefault(name, len(self._codes)) for name in found.dictionary.to_pylist()
        ]
        return np.array(codes, np.int32)[found.indices.to_numpy()]
