"""Content hashes that join the tables. Row order and file names never do."""

from __future__ import annotations

import hashlib


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
