"""Which image is shown when the best of n by some score is: exact, without drawing subsets.

Of N images drawn, n ≤ N, each subset of n has one best image. The mean over all subsets needs no
subset: an image is the best of those that hold it and n - 1 lower ones, so that with scores in
rising order the image of rank i is shown with probability C(i - 1, n - 1) / C(N, n). The estimate
is unbiased for every n, from the same images.
"""

from __future__ import annotations

from math import comb

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


def selection_probabilities(
    score: Float[NDArray[np.float64], " m"], n: int
) -> Float[NDArray[np.float64], " m"]:
    """How often each of m images of one prompt is the best of n drawn from them at random.

    Images of equal score share what falls to them.

    Raises:
        ValueError: n is not from 1 to m.

    Worked: scores (3, 1, 2), n = 2. The subsets {3, 1}, {3, 2}, {1, 2} show the first image twice
    and the third once: (2/3, 0, 1/3).
    """
    size = len(score)
    if not 1 <= n <= size:
        raise ValueError(f"the best of {n} of {size} images")
    by_rank = np.array([comb(rank, n - 1) / comb(size, n) for rank in range(size)])
    _, tie, counts = np.unique(score, return_inverse=True, return_counts=True)
    order = np.argsort(score, kind="stable")
    shares = np.bincount(tie[order], by_rank) / counts
    return shares[tie]
