"""What the figures of a claim mean, and why a claim does not reproduce where it does not.

Words only: every figure of the page is read from the results.
"""

DISCUSSION: dict[str, str] = {
    "1": "Each with its KL, DPOK gains more than the baseline and keeps its diversity, where the "
    "baseline, which imitates images of the model's own few steps, narrows it: so far the claim "
    "holds. Without KL it does not: the baseline, free of its anchor, gains more in so short a "
    "run, and narrows most. DPOK's KL has next to nothing to hold back in eight rounds. The "
    "baseline needs many small updates: with a quarter as many, each of four times the size, it "
    "did not improve at all.",
    "2": "On many prompts PRDP gains less than DDPO, on few prompts more, both by little: the "
    "claim does not reproduce. It is one of stability, over tens of thousands of updates and "
    "100,000 prompts, where DDPO collapses; nothing collapses in so few. Nor does a DDPO that "
    "compares each image with its round and not with others of its prompt, which is all that is "
    "left to it where prompts hardly come back. At four times the rate both break, PRDP first, "
    "for an update of its profile has the pairs of two prompts, where one of DDPO has transitions "
    "of many; and neither breaks when every update has the whole round, as PRDP's paper has it at "
    "small scale. What steadies the two here is the size of an update and not the loss.",
    "3": "In the rounds themselves, whose noise is refined by what was liked, HERO needs about a "
    "quarter of D3PO's labels on two seeds, and half of what D3PO had on the third, where D3PO "
    "does not get there: the claim holds. Part of it is selection: prompts come back, and images "
    "near good ones are drawn again. From N(0, I), where only what the LoRA has learnt counts, "
    "there is no such saving: HERO gets there on every seed and D3PO on one, there with fewer "
    "labels. Mistakes cost both methods labels.",
    "4": "Both errors have a calibrated β, the same pairs and the same updates. Features learn "
    "more slowly here than latents and keep more diversity, for DPO and CPO alike, and for SFT "
    "there is nothing between them: the claim does not reproduce. Given twice the updates features "
    "still win fewer than half of the images. On absolute winners, the data of the paper's widest "
    "margin, they draw level: it is the latents that gain less there, and lose diversity. The "
    "paper's features are those of a U-Net of 860 million weights, which know more of what people "
    "see than its latents do. Here latents are of drawings of 64 pixels, in which colour, count "
    "and place are easily read, and features have little to add. The temperature was the larger "
    "matter: a fifth of it doubled DPO's gain.",
    "5": "The consistency base starts nearer to the level, and rises half as fast. In twice the "
    "rounds it gets there on every seed and gains no less than DDPO, but with more images: the "
    "claim does not reproduce. The paper's saving is in steps, eight against fifty; here it is "
    "four against five, three of which have a likelihood.",
    "6": "What the papers claim shows at once and on every seed: no other online family rises as "
    "fast.",
    "7": "All draw from the same flow base. NFT rises as far with about a third of Flow-GRPO's "
    "images, as its paper claims in kind, and MixGRPO with fewer, each of which costs less, for "
    "two steps of five are trained on. Policy gradients have twice the images of the others: a "
    "round's gradient agrees less with that of the next, and with the reward's own through "
    "sampling, than DDPO's on the U-Net does "
    "([measured](../benchmarks/results/gradient_signal.json)).",
    "8": "Best of n asks the same reward and needs no training, but n times the drawing for every "
    "image that is ever shown. So short a training is worth up to two draws, and never four.",
    "9": "Nothing has hacked the reward in so short a run: the judge rises with it. What is lost "
    "first is diversity, and not where the reward rises fastest: plain likelihood of images that "
    "the model itself drew or that people liked (SFT, DCO, supervised, Lee et al., HIVE) narrows "
    "it before the preference shows. The judge falls in those first rounds, on one seed so far "
    "that the tripwire stops SFT, DCO and Lee et al. and keeps the base. Methods with a reference "
    "and losers, or with a gradient through sampling, keep it; CPO, which has no reference, trades "
    "it for reward as it goes.",
}
"""By the claim's number."""
METHODS: dict[str, str] = {}
"""For a method that does not improve over the base here: what its paper needs that the miniature
lacks. At present there is none."""
