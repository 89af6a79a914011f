"""Content hashes that join the tables. Row order and file names never do.

An id is a letter, `_` and 16 hexadecimal digits: a 64-bit number in clear. Where a million of them
are joined, they are handled as such numbers, which sort as their texts do.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from components.contracts.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_FORM = re.compile(r"[a-z]_[0-9a-f]{16}")
_LENGTH = 18


def _digest(kind: str, *parts: str) -> str:
    # A separator that cannot occur in a cleaned prompt keeps ("a", "bc") apart from ("ab", "c").
    return f"{kind}_{hashlib.sha256(chr(31).join(parts).encode()).hexdigest()[:16]}"


def prompt_id(prompt: str) -> str:
    """Id of a cleaned prompt, for example `p_3f2a…`."""
    return _digest("p", prompt)


def sample_id(prompt_id: str, model_digest: str, seed: int) -> str:
    """Id of one generated image: which prompt, which model, which noise."""
    return _digest("s", prompt_id, model_digest, str(seed))


def pair_id(sample_id_a: str, sample_id_b: str) -> str:
    """Id of an unordered pair of samples: the same whichever side each was shown on."""
    return _digest("c", *sorted((sample_id_a, sample_id_b)))


def ranking_id(prompt_id: str, annotator: str, name: str) -> str:
    """Id of one annotator's ranking of samples of one prompt; `name` tells several apart."""
    return _digest("r", prompt_id, annotator, name)


def id_number(name: str) -> int:
    """The number of one id, in [0, 2^64).

    Raises:
        DataError: it is no id.
    """
    if not _FORM.fullmatch(name):
        raise DataError(f"'{name[:40]}' is no id", allowed="a letter, _ and 16 hexadecimal digits")
    return int(name[2:], 16)


def id_numbers(names: pa.StringArray) -> np.ndarray:
    """uint64 numbers of a column of ids, [n]: 8 bytes for an id in place of 60 as a string.

    Raises:
        DataError: one of them is no id; it is named.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(names):
        return np.zeros(0, np.uint64)
    whole = pc.all(pc.match_substring_regex(names, f"^{_FORM.pattern}$")).as_py()
    if names.null_count or not whole:
        for name in names.to_pylist():
            id_number(str(name))
    # A copy of a slice starts at 0, so that its bytes lie one id after the other.
    content = pa.concat_arrays([names.cast(pa.string())]) if names.offset else names
    letters = np.frombuffer(content.buffers()[2], np.uint8)[: len(names) * _LENGTH]
    digits = letters.reshape(len(names), _LENGTH)[:, 2:]
    values = np.where(digits > ord("9"), digits - (ord("a") - 10), digits - ord("0"))
    return (values[:, ::2] << 4 | values[:, 1::2]).copy().view(">u8")[:, 0].astype(np.uint64)
