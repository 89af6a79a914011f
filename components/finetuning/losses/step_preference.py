"""DPO on single denoising steps (D3PO, SPO): which of two steps was preferred, no reward needed.

The log-ratios are those of the policy to the *reference*, means over the latent's dimensions
(`log_prob_per_dim`): the released code of both papers takes the mean, and their band of 0.1 is
meant for it. At SD 1.5's 16,384 dimensions it is wide, log 1.1 · 16384 ≈ 1560 nats of true density,
so it keeps runaway samples in check and hardly ever binds.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def step_preference_loss(
    reference_log_ratio_w: Float[Tensor, " p"],
    reference_log_ratio_l: Float[Tensor, " p"],
    dpo_beta: float,
    clip_range: float,
) -> Float[Tensor, ""]:
    """Mean of `-log σ(β [log clip(ρ_w, 1 ± c) - log clip(ρ_l, 1 ± c)])`, ρ = π_θ / π_ref of a step.

    D3PO (arXiv 2311.13231) writes h_0 and h_1 in {-1, 0, 1} before the two terms; with the winner
    first they are 1 and -1. A tie has h = 0: its loss is log 2 whatever the policy does, without a
    gradient, and callers leave it out. SPO (arXiv 2406.04314) has the same form.

    The clip is a bare clamp of each ratio on its own: once a ratio has left the band, that side of
    the pair has no gradient, also where following it would lead back.

    Worked: β = 2, c = 0.1, ρ_w = 1.05, ρ_l = 0.5. The first stays, the second becomes 0.9: the
    argument of σ is 2 (log 1.05 - log 0.9) = 2 log(7/6), σ = 1 / (1 + (6/7)²) = 49/85, and the loss
    log(85/49) = 0.5508. Its derivative to log ρ_w is -β (1 - σ) = -2 · 36/85 = -0.8471, to log ρ_l
    it is 0. At the reference the loss is log 2.
    """
    low, high = math.log1p(-clip_range), math.log1p(clip_range)
    margin = reference_log_ratio_w.clamp(low, high) - reference_log_ratio_l.clamp(low, high)
    return -functional.logsigmoid(dpo_beta * margin).mean()


def preferred(
    score: Float[Tensor, "n k"], threshold: float
) -> tuple[Tensor, Tensor, Bool[Tensor, " n"]]:
    """The best and the worst of k candidates, and whether they differ enough to learn from.

    SPO (arXiv 2406.04314): the softmax over the scores of the two, p_w - p_l > threshold.

    Returns:
        Place of the best, place of the worst (int64 [n] each), and the verdict.

    Worked: scores (0.1, 1.0, -1.0): best 1, worst 2, a gap of 2. p_w = 1 / (1 + e⁻²) = 0.8808,
    p_w - p_l = tanh(1) = 0.7616, above a threshold of 0.3. A gap of 0.6 gives tanh(0.3) = 0.2913.
    """
    best, worst = score.max(dim=1), score.min(dim=1)
    # softmax((a, b)) = (σ(a - b), σ(b - a)), and their difference is tanh((a - b) / 2).
    difference = ((best.values - worst.values) / 2).tanh()
    return best.indices, worst.indices, difference > threshold
