"""Settings and names as the store takes them: flat, printable, of bounded length."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_PARAM = 6000
MAX_TAG = 5000
MAX_NAME = 250


def clean(text: object, limit: int = MAX_TAG) -> str:
    """`text` without control characters, cut to `limit`.

    A NUL in a tag is an internal error on some stores, which a client then retries for minutes.
    """
    kept = "".join(c for c in str(text) if c in "\n\t" or (c.isprintable() or c == " "))
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def name(text: str) -> str:
    """A name of a metric, parameter or tag: letters, digits and `_-./: ` only."""
    return re.sub(r"[^\w\-./: ]", "_", clean(text, MAX_NAME), flags=re.ASCII).strip("/ ") or "_"


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names; lists and None as json."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{dotted}."))
        else:
            written = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[name(dotted)] = clean(written, MAX_PARAM)
    return flat
