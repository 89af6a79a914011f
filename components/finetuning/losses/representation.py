"""HERO's feedback-aligned representation: a triplet loss, and the reward read off from it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


def triplet_margin_loss(
    anchor: Float[Tensor, "t d"],
    positive: Float[Tensor, "t d"],
    negative: Float[Tensor, "t d"],
    margin: float,
    *,
    over_batch: bool = False,
) -> Float[Tensor, ""]:
    """Mean of `max(0, D(a, p) - D(a, n) + m)` with `D(u, v) = (1 - cos(u, v)) / 2` in [0, 1].

    HERO (arXiv 2410.05116, feedback-aligned representation). A hard margin: no temperature.

    Args:
        anchor: projections of the best image, one row a triplet.
        positive: of a good image each.
        negative: of a bad image each.
        margin: m, in units of D.
        over_batch: take the cosine over the rows, one for each feature, as the released code does.

    Worked: m = 0.5, anchor (3, 4), positive (4, 3), negative (1, 0). cos = 24/25 and 3/5, D = 0.02
    and 0.2: the loss is 0.02 - 0.2 + 0.5 = 0.32. A negative (-3, -4) has D = 1: nothing is left to
    learn, the loss is 0.
    """
    dim = 0 if over_batch else 1
    near = (1 - cosine_similarity(anchor, positive, dim=dim)) / 2
    far = (1 - cosine_similarity(anchor, negative, dim=dim)) / 2
    return (near - far + margin).relu().mean()


def similarity_reward(
    encoding: Float[Tensor, "n d"], wanted: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """`(1 + cos(f(z), f(z_wanted))) / 2` in [0, 1], 1 for the wanted image itself (HERO's reward).

    Worked: (3, 4) against (4, 3): (1 + 24/25) / 2 = 0.98.
    """
    return (1 + cosine_similarity(encoding, wanted, dim=1)) / 2


def mixed_noise(
    noise: Float[Tensor, "n c h w"], fresh: Float[Tensor, "n c h w"], share: float
) -> Float[Tensor, "n c h w"]:
    """`√(1 - ε₀²) · noise + ε₀ · fresh`: of unit variance again, and close to `noise` for a small
    ε₀.

    HERO's refined initial noise; ε₀ is `share`, in [0, 1].

    Worked: ε₀ = 0.6, noise 1, fresh 2: 0.8 · 1 + 0.6 · 2 = 2.
    """
    return (1 - share**2) ** 0.5 * noise + share * fresh
