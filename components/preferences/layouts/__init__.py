"""Labels that somebody else collected, in the layouts in which they are published.

One file a layout, each a generator of `Labelled`: it reads its files piece by piece and holds no
more of them than what stands together. docs/label_data.md lists what each one keeps.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from components.preferences.layouts.records import Labelled
from components.preferences.settings import AnySource


def read_labels(source: AnySource, root: Path) -> Iterator[Labelled]:
    """What a source holds, in its order.

    Raises:
        DataError: a file is missing, of another layout or broken, or one of your own labels cannot
            be used; file, place and what is allowed are named.
    """
    layout = importlib.import_module(f"components.preferences.layouts.{source.layout}")
    yield from layout.read(source, root)
