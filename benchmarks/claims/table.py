"""The papers' claims: which runs each of them needs, and which figures decide it.

An arm is a method with its settings; it runs once for each seed and serves every claim that names
it. What a claim's figures mean is said in `discussion.py`, next to the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from benchmarks.claims import measures
from benchmarks.claims.runs import PROFILES, ROUNDS, Run

Arms = Mapping[str, Sequence[Run]]
"""The runs of each arm, one a seed."""

Form = Literal["quick", "whole", "further"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Arm:
    """A method as a claim wants it."""

    profile: str
    method: Mapping[str, Any] = field(default_factory=dict)
    """Changes of the profile's block `method`."""
    prompts_per_category: int | None = None
    rounds: int = ROUNDS
    """More of them where a method is given the time to catch up."""
    form: Form = "quick"
    """The smallest form of the bench that runs it: `quick` where nothing else runs the same lines,
    `further` for an attempt at a claim that does not hold as it stands. Without what is not quick
    a claim has something to say, and names it as not run."""

    def is_in(self, form: Form) -> bool:
        """Whether a form of the bench runs it."""
        return FORMS.index(self.form) <= FORMS.index(form)

    def runs(self, name: str, seeds: Sequence[int], quick: bool) -> list[Run]:
        """One run a seed."""
        finetuning: dict[str, Any] = {"method": dict(self.method)} if self.method else {}
        if self.rounds != ROUNDS:
            finetuning["rounds"] = self.rounds
        changes = {"finetuning": finetuning} if finetuning else {}
        return [
            Run(name, seed, self.profile, changes, self.prompts_per_category, quick)
            for seed in seeds
        ]


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper that the miniature can test."""

    number: str
    title: str
    arms: Mapping[str, Arm]
    figures: Callable[[Arms], dict[str, Any]]
    every_method: bool = False
    """It is about all methods: it has something to say before all have run, and the quick form,
    which has not the time for them, takes those that other claims run."""


FEW = 1
"""Prompts of each category where a claim is about few prompts: five in all."""


def against_base(arms: Arms) -> dict[str, Any]:
    """What every arm did on unseen and on seen prompts: level, gain over its base, diversity."""
    table: dict[str, Any] = {}
    for name, runs in arms.items():
        bases = [run.base for run in runs]
        table[name] = {
            "correct": measures.level(runs, "correct"),
            "gain": measures.difference(runs, bases, "correct"),
            "gain_on_seen_prompts": measures.difference(runs, bases, "correct", "train"),
            "reward_gain": measures.difference(runs, bases, "reward"),
            "diversity": measures.diversity(runs),
            "base_diversity": measures.diversity(bases),
        }
    return table


def cost(
    ours: Sequence[str],
    theirs: str,
    curve: measures.Curve,
    *costs: str,
    to: Literal["rise", "level"] = "rise",
    share: float = 0.8,
) -> Callable[[Arms], dict[str, Any]]:
    """What it costs each arm to rise by `share` of the rival's own rise on a curve.

    Each from where it starts; or to the `level` that the rival has then, wherever it starts.
    """

    def figures(arms: Arms) -> dict[str, Any]:
        rises = [
            share * (measures.best(run, curve) - measures.first(run, curve)) for run in arms[theirs]
        ]
        table: dict[str, Any] = {}
        for name in (*ours, theirs):
            if name not in arms:
                continue
            target = [
                measures.first(start, curve) + rise
                for start, rise in zip(arms[theirs if to == "level" else name], rises, strict=True)
            ]
            table[name] = {
                what: measures.cost_to_reach(arms[name], target, curve, what) for what in costs
            }
        return {"arms": against_base(arms), "cost": table, "to": to}

    return figures


def claim_of_pairs(
    number: str, title: str, arms: Mapping[str, Arm], *pairs: tuple[str, str]
) -> Claim:
    """A claim that comparisons of two arms decide, image by image.

    Raises ValueError where a pair names what is no arm: it would be left out of every form of the
    bench as one that has not run yet.
    """
    unknown = {name for pair in pairs for name in pair} - arms.keys()
    if unknown:
        raise ValueError(f"claim {number} has no arms {sorted(unknown)}; it has {sorted(arms)}")

    def figures(ran: Arms) -> dict[str, Any]:
        return {
            "arms": against_base(ran),
            "pairs": {
                f"{ours} against {theirs}": {
                    "win_rate": measures.win_rate(ran[ours], ran[theirs]),
                    "difference": measures.difference(ran[ours], ran[theirs], "correct"),
                    "updates to the rival's best": measures.cost_to_reach(
                        ran[ours],
                        [measures.best(run, "judge") for run in ran[theirs]],
                        "judge",
                        "update",
                    ),
                }
                for ours, theirs in pairs
                if ours in ran and theirs in ran
            },
        }

    return Claim(number, title, arms, figures)


RISE = 0.25
"""Of the wrong images that are right at the target of claim 3."""


def labels_needed(arms: Arms) -> dict[str, Any]:
    """Labels until the share of right images has risen by a part of what is left to rise.

    From N(0, I) by the looks of the monitor; from refined noise, which HERO alone has, by the
    labels of the rounds themselves. Where a fixed reward is asked instead, its images are counted.
    """
    table: dict[str, Any] = {}
    for name, runs in arms.items():
        starts = [measures.first(run, "judge") for run in runs]
        target = [start + RISE * (1 - start) for start in starts]
        asked = "images" if "fixed reward" in name else "labels"
        table[name] = {
            "from N(0, I)": measures.cost_to_reach(runs, target, "judge", asked),
            "best": [measures.best(run, "judge") for run in runs],
        }
        if asked == "labels":
            table[name] |= {
                "in its rounds": measures.cost_to_reach(runs, target, "good", asked),
                "best of its rounds": [measures.best(run, "good") for run in runs],
            }
    return {"arms": against_base(arms), "labels": table, "rise": RISE}


REWARD_RISE = 0.2
"""In standard deviations, at which judge and diversity are asked for: who has hacked the reward."""


def everything(arms: Arms) -> dict[str, Any]:
    """Every arm, and the curves of its looks: reward, judge, diversity."""
    return {
        "arms": against_base(arms),
        "reward_rise": REWARD_RISE,
        "at_rise": {name: measures.at_rise(runs, REWARD_RISE) for name, runs in arms.items()},
        "curves": {name: [measures.looks(run) for run in runs] for name, runs in arms.items()},
    }


NUM_DRAWS = (1, 2, 4, 8)
"""Of best of n."""


def against_best_of_n(arms: Arms) -> dict[str, Any]:
    """Every arm's single image against the best of n images of its base by the same reward."""
    bases = {name: [run.base for run in runs] for name, runs in arms.items()}
    shown: dict[str, Any] = {}
    for of_arm in bases.values():
        shown.setdefault(
            of_arm[0].model, {str(n): measures.best_of_n(of_arm, n) for n in NUM_DRAWS}
        )
    return {
        "arms": against_base(arms),
        "best_of_n": shown,
        "against_best_of_n": {
            name: {
                "base": bases[name][0].model,
                **{f"minus best of {n}": measures.minus_best_of_n(runs, n) for n in NUM_DRAWS[1:]},
            }
            for name, runs in arms.items()
        },
    }


def _flips(profile: str, method: Mapping[str, Any]) -> dict[str, Arm]:
    """A method with people of whose labels none, a tenth and a fifth are wrong."""
    return {
        f"{profile}, {percent} % flips": Arm(
            profile,
            {**method, "labels": _labels(percent / 100)},
            FEW,
            form="quick" if percent == 10 else "whole",
        )
        for percent in (0, 10, 20)
    }


def _labels(flips: float) -> dict[str, Any]:
    return {
        "source": "plug",
        "callable": "components.miniature.people:build_labeller",
        "arguments": {"flip_probability": flips},
    }


METHODS = tuple(sorted(path.stem for path in PROFILES.glob("*.yaml")))
"""Every method once, as its profile has it."""
NUM_IMAGES = 96 * ROUNDS
"""What an online method draws in a run: so many has a method that draws once."""


def _of(name: str) -> Arm:
    """A method as its profile has it, fitted to the length of a run."""
    if name in ("supervised", "lee2023", "hive"):
        return Arm(name, {"num_images": NUM_IMAGES})
    if name == "mix_grpo":
        return Arm(name, {"rounds_per_window": 3})
    return Arm(name)


_EIGHT_UPDATES = {"prompts_per_round": 16, "group_size": 6, "updates_per_epoch": 8}
"""As many for PRDP as DDPO has, of as many images; twelve prompts of eight images make six."""
_WHOLE_ROUND = {"inner_epochs": 3, "updates_per_epoch": 1}
"""Every update on the whole round, as PRDP has it at small scale, and so fewer of them: an update
of its profile has two prompts, where one of DDPO has transitions of many."""
_ONE_IMAGE_A_PROMPT = {"prompts_per_round": 96, "group_size": 1, "baseline": "batch"}
"""What DDPO is left with, by PRDP's account, where a prompt hardly ever comes back: it compares an
image with the round, for there is no other of its prompt. Its profile here has eight of each."""


CLAIMS = (
    claim_of_pairs(
        "1",
        "DPOK against supervised fine-tuning; KL keeps quality",
        {
            "dpok": Arm("dpok"),
            "dpok, no KL": Arm("dpok", {"kl_weight": 0.0}),
            "supervised": _of("supervised"),
            # KL-D with γ = 0 weighs by max(r, 0). Without the maximum nothing holds r < 0.
            "supervised, no KL": Arm(
                "supervised", {"kl_weight": 0.0, "num_images": NUM_IMAGES}, form="whole"
            ),
        },
        ("dpok", "supervised"),
        ("dpok, no KL", "supervised, no KL"),
        ("dpok", "dpok, no KL"),
    ),
    claim_of_pairs(
        "2",
        "PRDP against DDPO on many prompts seen few times, on few prompts, and at a high rate",
        {
            "prdp": Arm("prdp"),
            "ddpo": Arm("ddpo"),
            "prdp, few prompts": Arm("prdp", prompts_per_category=FEW),
            "ddpo, few prompts": Arm("ddpo", prompts_per_category=FEW),
            "prdp, 8 updates a round": Arm("prdp", _EIGHT_UPDATES, form="further"),
            "ddpo, one image a prompt": Arm("ddpo", _ONE_IMAGE_A_PROMPT, form="further"),
            **{
                f"{name}, rate x 4": Arm(name, {"learning_rate": 4.0e-3}, form="further")
                for name in ("prdp", "ddpo")
            },
            "prdp, rate x 4, all pairs": Arm(
                "prdp", {"learning_rate": 4.0e-3, **_WHOLE_ROUND}, form="further"
            ),
            "ddpo, rate x 4, all steps": Arm(
                "ddpo", {"learning_rate": 4.0e-3, **_WHOLE_ROUND}, form="further"
            ),
        },
        ("prdp", "ddpo"),
        ("prdp, 8 updates a round", "ddpo"),
        ("prdp", "ddpo, one image a prompt"),
        ("prdp, few prompts", "ddpo, few prompts"),
        ("prdp, rate x 4", "ddpo, rate x 4"),
        ("prdp, rate x 4, all pairs", "ddpo, rate x 4"),
        ("prdp, rate x 4, all pairs", "ddpo, rate x 4, all steps"),
        ("prdp, rate x 4, all pairs", "ddpo"),
    ),
    Claim(
        "3",
        "HERO needs 4 times fewer labels than D3PO",
        {
            # The profile's two updates a round are for prompts that hardly ever come back.
            **_flips("hero", {"updates_per_epoch": 8}),
            # Good or bad, as HERO asks; a whole ranking would say more with as many labels.
            **_flips("d3po", {"order": "binary"}),
            "ddpo, fixed reward": Arm("ddpo", prompts_per_category=FEW),
        },
        labels_needed,
    ),
    claim_of_pairs(
        "4",
        "Noise-conditioned perception against the latent error: win rate and compute",
        {
            **{name: _of(name) for name in METHODS if name.endswith(("_dpo", "cpo", "sft"))},
            "ncp_dpo, twice the updates": Arm("ncp_dpo", rounds=2 * ROUNDS, form="further"),
            # The pairs on which NCP's paper has its widest margin.
            **{
                f"{name}, absolute winners": Arm(
                    name, {"pairs": {"winners": "absolute"}}, form="further"
                )
                for name in ("ncp_dpo", "diffusion_dpo")
            },
        },
        ("ncp_dpo", "diffusion_dpo"),
        ("ncp_dpo, twice the updates", "diffusion_dpo"),
        ("ncp_dpo, absolute winners", "diffusion_dpo, absolute winners"),
        ("ncp_cpo", "cpo"),
        ("ncp_sft", "sft"),
    ),
    Claim(
        "5",
        "RLCM reaches a reward level sooner than DDPO",
        {
            "rlcm": Arm("rlcm"),
            "rlcm, twice the rounds": Arm("rlcm", rounds=2 * ROUNDS, form="further"),
            "ddpo": Arm("ddpo"),
        },
        cost(
            ("rlcm", "rlcm, twice the rounds"),
            "ddpo",
            "validation_reward",
            "images",
            "update",
            to="level",
        ),
    ),
    Claim(
        "6",
        "Gradients through sampling need fewer samples than DDPO",
        {
            name: Arm(name, form="quick" if name in ("draft", "ddpo") else "whole")
            for name in ("alignprop", "draft", "draft_lv", "refl", "ddpo")
        },
        cost(("alignprop", "draft", "draft_lv", "refl"), "ddpo", "validation_reward", "images"),
    ),
    Claim(
        "7",
        "DiffusionNFT against Flow-GRPO; MixGRPO's saving",
        {
            "nft": Arm("nft"),
            "mix_grpo": replace(_of("mix_grpo"), form="whole"),
            "flow_grpo": Arm("flow_grpo"),
        },
        cost(("nft", "mix_grpo"), "flow_grpo", "validation_reward", "images", "update"),
    ),
    Claim(
        "8",
        "Every method against the best of n images of its base",
        {name: _of(name) for name in METHODS},
        against_best_of_n,
        every_method=True,
    ),
    Claim(
        "9",
        "Over-optimisation: judge and diversity against the reward, every method",
        {name: _of(name) for name in METHODS},
        everything,
        every_method=True,
    ),
)
