"""What the figures of a claim mean, and why a claim does not reproduce where it does not.

Words only: every figure of the page is read from the results.
"""

UNFINISHED = (
    "**Unfinished.** The runs so far are of one seed, and each is short: eight rounds of 96 "
    "images, a fifth of what the methods' profiles ask for. Nothing here confirms or refutes a "
    "paper yet."
)
DISCUSSION: dict[str, str] = {
    "5": UNFINISHED
    + " The consistency base starts higher than the U-Net, so that rises are compared, each from "
    "its own start.",
    "9": UNFINISHED
    + " What can be seen: methods that learn from the policy's own new images, and Diffusion-DPO "
    "and KTO on what people said of stored ones, rise on the held-out judge while diversity holds; "
    "nothing has hacked the reward in so short a run.",
}
"""By the claim's number."""
STORED = "16 updates on stored pairs hardly move the policy: to be run at its profile's length."
METHODS: dict[str, str] = {
    "ncp_dpo": STORED,
    "cpo": STORED,
    "ncp_cpo": STORED,
    "supervised": "At DPOK's learning rate, which was not tuned for it; the full profile's three "
    "seeds say the same.",
}
"""For a method that does not improve over the base here: what its paper needs that the miniature
lacks."""
