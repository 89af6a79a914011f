"""What the figures of a claim mean, and why a claim does not reproduce where it does not.

Words only: every figure of the page is read from the results.
"""

DISCUSSION: dict[str, str] = {
    "1": "At as many images DPOK gains more than the baseline with its KL and about as much as "
    "without, and keeps its diversity, where the baseline, which imitates images of the model's "
    "own few steps, narrows it. DPOK's KL has next to nothing to hold back in a run so short. The "
    "baseline needs many small updates: with a quarter as many, each of four times the size, it "
    "did not improve at all.",
    "2": "At one rate the two are alike, on many prompts as on few. PRDP's stability "
    "is claimed for tens of thousands of updates over 100,000 prompts, where DDPO collapses; "
    "nothing collapses in so few. At four times the rate it is PRDP that breaks: nothing bounds a "
    "single update of its regression but the clip, which binds only from a round's second one on.",
    "3": "In the rounds themselves, whose noise is refined by what was liked, HERO "
    "needs fewer labels than D3PO on every seed, about a quarter on one of them, and the other's "
    "D3PO never gets there: the claim's direction holds. Part of it is selection: prompts come "
    "back, and images near good ones are drawn again. From N(0, I), where only what the LoRA has "
    "learnt counts, HERO gets to the target and D3PO does not with the labels that it had. "
    "Mistakes cost both methods labels.",
    "4": "Both errors have a calibrated β, the same pairs and the same updates. "
    "Features learn more slowly here and keep more diversity, for DPO, CPO and SFT alike: the "
    "claim does not reproduce. Its paper's features are those of a U-Net of 860 million weights, "
    "which know more of what people see than its latents do. Here latents are of drawings of 64 "
    "pixels, in which colour, count and place are easily read, and features have little to add. "
    "The temperature was the larger matter: a fifth of it doubled DPO's gain.",
    "5": "The consistency base starts nearer to the level, which is the part of the "
    "claim that holds. Its other part, fewer steps, does not apply: DDPO has five here and RLCM "
    "four, where the paper has fifty against eight.",
    "6": "What the papers claim shows at once: no other online family rises as fast.",
    "7": "All draw from the same flow base. Policy gradients have twice the images of "
    "the others: a round's gradient agrees less with that of the next, and with the reward's own "
    "through sampling, than DDPO's on the U-Net does "
    "([measured](../benchmarks/results/gradient_signal.json)).",
    "8": "Best of n asks the same reward and needs no training, but n times the "
    "drawing for every image that is ever shown. So short a training is worth up to two draws, "
    "and never four.",
    "9": "Nothing has hacked the reward in so short a run: the judge rises with it. "
    "What is lost first is diversity, and not where the reward rises fastest: plain likelihood of "
    "images that the model itself drew (SFT, supervised, Lee et al., HIVE) narrows it before the "
    "preference shows, and methods that have a reference, or pass the gradient through sampling, "
    "do not.",
}
"""By the claim's number."""
SMALL_ROUNDS = (
    "Its reward rises, its judge not surely: on the flow, reward and judge agree less within a "
    "prompt than on the U-Net. Its paper has ten times the images a round, and hundreds of rounds."
)
METHODS: dict[str, str] = {
    "awm": SMALL_ROUNDS,
    "crd": SMALL_ROUNDS,
    "dance_grpo": SMALL_ROUNDS,
    "flow_dppo": SMALL_ROUNDS,
    "flow_grpo": SMALL_ROUNDS,
    "mix_grpo": SMALL_ROUNDS,
    "dco": "Its gate closes on images of the model's own few steps, which it has to narrow to "
    "imitate. Its paper has three to five real photographs, and 2,000 updates.",
}
"""For a method that does not improve over the base here: what its paper needs that the miniature
lacks."""
