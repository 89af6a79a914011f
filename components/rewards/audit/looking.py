"""What a reward and a judge say of images, batch by batch, with every number finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from components.contracts.errors import DataError, GuardError

CHUNK = 64
"""Images that are scored together; by contract no score depends on it."""
Images = Sequence[UInt8[Tensor, "3 _ _"]]


def look(
    images: Images,
    prompts: Sequence[str],
    say: Callable[[Tensor, Sequence[str]], Tensor],
    whose: str,
) -> Float[NDArray[np.float64], " n"]:
    """One number of each image: `say` is a method of a scorer or of a judge.

    Raises:
        DataError: a prompt cannot be read by whoever says it.
        GuardError: the numbers are not one an image, or one is not finite.
    """
    parts = []
    for rows in batches(images):
        texts = [prompts[row] for row in rows]
        try:
            said = say(torch.stack([images[row] for row in rows]), texts)
        except ValueError as error:
            raise DataError(f"{whose} cannot read these prompts ({error})") from None
        if said.shape != (len(rows),):
            raise GuardError(f"{whose} gives {list(said.shape)} numbers for {len(rows)} images")
        parts.append(said.detach().cpu().double().numpy())
    found = np.concatenate(parts)
    if bad := int((~np.isfinite(found)).sum()):
        raise GuardError(f"{whose} is not finite for {bad} of {len(found)} images")
    return found


def batches(images: Images) -> Iterator[list[int]]:
    """Rows of images that follow each other and have one size."""
    rows: list[int] = []
    for row, image in enumerate(images):
        if rows and (len(rows) == CHUNK or image.shape != images[rows[0]].shape):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
