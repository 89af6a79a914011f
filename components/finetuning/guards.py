"""Failures that cannot happen silently: each guard raises before harm is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from components.contracts.errors import GuardError, QuarantinedData
from components.diffusion import Policy


def check_rewards(reward: Float[Tensor, " b"], prompts: Sequence[str]) -> None:
    """Before anything is computed from them: every reward is finite, and they are not all the same.

    Raises:
        QuarantinedData: a reward is NaN or infinite.
        GuardError: two or more rewards, all equal: a scorer that ignores its images.
    """
    bad = (~torch.isfinite(reward)).nonzero().flatten().tolist()
    if bad:
        raise QuarantinedData(
            f"{len(bad)} of {len(reward)} rewards are not finite, the first is "
            f"{float(reward[bad[0]])} for '{prompts[bad[0]]}'; nothing was trained on this round"
        )
    if len(reward) > 1 and bool((reward == reward[0]).all()):
        raise GuardError(
            f"all {len(reward)} rewards of a round are {float(reward[0]):g}: the scorer does not "
            "tell its images apart"
        )


def check_reached(modules: Sequence[str], targets: Sequence[str] | None) -> None:
    """The LoRA sits in at least one module.

    Raises:
        GuardError: it reached none.
    """
    if not modules:
        raise GuardError(
            "the LoRA reached 0 modules: no module of the network is named "
            f"{', '.join(targets or ('as an attention projection',))}"
        )


def check_start(metrics: Mapping[str, float]) -> None:
    """The metrics of the first update, before its optimizer step: rollout and training must agree
    to the bit.

    The policy has not moved since its rollout and its LoRA adds nothing yet, so the ratio is 1 and
    the KL 0, in fp32 exactly. Anything else means that the two passes compute different things.

    Raises:
        GuardError: with the largest deviation.
    """
    if metrics.get("ratio_deviation_max", 0.0) != 0.0:
        raise GuardError(
            "rollout and training disagree before the first update: the largest |ratio - 1| is "
            f"{metrics['ratio_deviation_max']:.3g} and must be exactly 0"
        )
    if metrics.get("kl", 0.0) != 0.0:
        raise GuardError(
            "the policy differs from the reference before the first update: KL is "
            f"{metrics['kl']:.3g} and must be exactly 0"
        )


def check_finite(loss: float, grad_norm: float, what: str) -> None:
    """Before an optimizer step: loss and gradient are numbers.

    Raises:
        GuardError: either is NaN or infinite; the weights are still those of the update before.
    """
    if not (abs(loss) < float("inf") and abs(grad_norm) < float("inf")):
        raise GuardError(
            f"{what}: loss {loss:g}, gradient norm {grad_norm:g}; stopped before the step"
        )


class FirstUpdate:
    """Wraps the first optimizer step: the policy's output must change, everything frozen must not.

    What is frozen is compared by what it computes, to the bit: the reference's prediction, a
    decoded image, and the states of a prompt pass through every weight of the U-Net, the decoder
    and the text encoder.
    """

    def __init__(self, policy: Policy, prompt: str, generator: torch.Generator) -> None:
        self.policy, self.prompt = policy, prompt
        self.x_t = torch.randn((1, *policy.latent_shape), generator=generator).to(policy.device)

    def __enter__(self) -> None:
        self.before = self._outputs()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises:
        GuardError: the step changed nothing, or something that is frozen.
        """
        if kind is not None:
            return
        after = self._outputs()
        changed = {name for name in after if not torch.equal(after[name], self.before[name])}
        frozen = sorted(changed - {"policy"})
        if frozen:
            raise GuardError(f"the first update changed what is frozen: {', '.join(frozen)}")
        if not changed:
            raise GuardError("the first update left the policy's output as it was")

    @torch.no_grad()
    def _outputs(self) -> dict[str, Tensor]:
        text = self.policy.encode_prompts([self.prompt])
        return {
            "policy": self.policy.predict(self.x_t, 0, text),
            "U-Net": self.policy.predict(self.x_t, 0, text, adapter="reference"),
            "decoder": self.policy.pixels(self.x_t),
            "text encoder": text.states,
        }
