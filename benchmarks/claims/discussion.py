"""What the figures of a claim mean, and why a claim does not reproduce where it does not.

Words only: every figure of the page is read from the results.
"""

UNFINISHED = (
    "**Unfinished.** The runs so far are of one seed, and each is short: eight rounds of 96 "
    "images, a fifth of what the methods' profiles ask for. Nothing here confirms or refutes a "
    "paper yet."
)
DISCUSSION: dict[str, str] = {
    "4": UNFINISHED + " DPO learns as much from features as from latents here; CPO learns less.",
    "5": UNFINISHED
    + " The consistency base starts higher than the U-Net, so that rises are compared, each from "
    "its own start.",
    "6": UNFINISHED + " What the papers claim shows at once: no other family rises as fast.",
    "7": UNFINISHED + " All three draw from the same flow base.",
    "8": UNFINISHED
    + " Best of n asks the same reward and needs no training, but n times the drawing for every "
    "image that is ever shown. So short a training is seldom worth two draws, and never four.",
    "9": UNFINISHED
    + " Nothing has hacked the reward in so short a run. What goes down first is diversity, and "
    "not where the reward rises fastest: plain likelihood of images that the model itself drew "
    "(SFT, Lee et al., HIVE) narrows it before the preference shows.",
}
"""By the claim's number."""
NARROWS = (
    "It learns the likelihood of the model's own few-step images, which narrows the model first: "
    "see diversity. Its paper has real images, and hundreds of times the updates."
)
METHODS: dict[str, str] = {
    "dco": NARROWS,
    "lee2023": NARROWS,
    "ncp_sft": NARROWS,
    "sft": NARROWS,
    "supervised": NARROWS,
    "ncp_cpo": "With no reference, features of 64-pixel drawings hold it back more than they guide "
    "it; the paper gives neither its β nor its λ.",
}
"""For a method that does not improve over the base here: what its paper needs that the miniature
lacks."""
