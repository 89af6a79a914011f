"""The body of stage 5: draw with both models, judge, and say what changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.artifacts import read_json, write_bytes, write_csv, write_json, write_text
from components.contracts.errors import ModelError, SettingsError
from components.contracts.plugins import build_plug
from components.contracts.settings import PluginSettings
from components.contracts.stage import StageContext, log_inputs
from components.evaluation.settings import Settings
from components.rewards.scorers.settings import trained_models

if TYPE_CHECKING:
    from components.contracts.protocols import Judge
    from components.evaluation.baselines.run import Bench
    from components.evaluation.measure import Draws, Measured

PROMPTS = Path("data/prompts/test.parquet")
TRAINING_PROMPTS = Path("data/prompts/train.parquet")
"""What a prompt search learns from; read where the settings ask for one."""
LORA = Path("models/lora")
ADAPTER = LORA / "adapter.json"
CURVES = Path("reports/curves.csv")
EARLIER = ("prompts", "preferences", "rewards", "finetuning")
"""Stages whose `reports/<stage>.json` the page quotes where there is one."""
REPORT = Path("reports/evaluation.json")
BY_CATEGORY = Path("reports/evaluation_by_category.csv")
GRID = Path("reports/grid.png")
PAGE = Path("reports/report.html")


def run(settings: Settings, context: StageContext) -> dict[str, float]:
    """Measure the LoRA against the base on prompts that nothing was trained on.

    Everything is computed before the first file is written, so that a failure leaves the earlier
    report as it was.

    Raises:
        DataError: the prompts or a report of an earlier stage cannot be read.
        ModelError: base, LoRA or reward model is missing, truncated or of another kind, or
            the LoRA was trained on another base.
        SettingsError: the judge's plug gives no judge.
        GuardError: a judge's score is not finite.
        QuarantinedData: a reward is not finite.
    """
    from components.evaluation.baselines.run import run_baselines
    from components.evaluation.grid import choose_blocks, draw_grid
    from components.evaluation.measure import choose_draws
    from components.evaluation.report import Materials, read_curves, render_report
    from components.evaluation.summary import flat_metrics, summarise

    root = context.root

    def choose(samples_per_prompt: int) -> Draws:
        seed, per_category = context.seed_for("draws"), settings.prompts_per_category
        return choose_draws(root / PROMPTS, seed, per_category, samples_per_prompt)

    draws = choose(settings.samples_per_prompt)
    judge = load_judge(settings.judge)
    curves = read_curves(root / CURVES) if (root / CURVES).exists() else {}
    reports = {name: read_json(root / path) for name, path in _earlier_reports(root).items()}
    adapter = read_json(root / ADAPTER) if (root / ADAPTER).exists() else {}
    bench = _bench(settings, context, judge)
    base_digest = bench.policy.digest
    if adapter.get("base_digest", base_digest) != base_digest:
        raise ModelError(
            "was trained on another base model", file=LORA, allowed=f"one of {context.base.path}"
        )
    base, lora = _draw_and_measure(bench, draws)
    baselines = (
        run_baselines(
            settings.baselines,
            bench,
            choose,
            root / TRAINING_PROMPTS,
            base,
            lora,
            settings.samples_per_prompt,
        )
        if settings.baselines
        else None
    )
    inputs = _inputs(settings, context)
    digests = log_inputs(context, **inputs)

    evaluation = summarise(
        draws,
        base,
        lora,
        error_rate=judge.error_rate,
        seed=context.seed_for("bootstrap"),
        resamples=settings.num_resamples,
        baselines=baselines,
    )
    blocks = choose_blocks(draws, base, lora, settings.grid_prompts_per_category)
    materials = Materials(
        blocks=blocks,
        base_name=context.base.path,
        base_digest=base_digest,
        seed=context.seed,
        samples_per_prompt=settings.samples_per_prompt,
        judge_name=settings.judge.callable,
        lineage=[(name, path.as_posix(), digests[name]) for name, path in inputs.items()],
        curves=curves,
        reports=reports,
        adapter=adapter,
    )
    page, grid = render_report(evaluation, materials), draw_grid(blocks, judge.error_rate)

    write_json(root / REPORT, evaluation)
    write_csv(root / BY_CATEGORY, ("category", "base", "lora"), _by_category(evaluation))
    write_bytes(root / GRID, grid)
    write_text(root / PAGE, page)
    for path in (REPORT, BY_CATEGORY, GRID, PAGE):
        context.tracker.log_artifact(root / path)
    return flat_metrics(evaluation)


def load_judge(plug: PluginSettings) -> Judge:
    """The held-out judge that the settings name.

    Raises:
        SettingsError: the path cannot be imported, the call refuses its arguments, or the result
            lacks what a judge must offer.
    """
    judge: Judge = build_plug(plug)
    needed = ("score", "correct", "error_rate")
    if missing := [name for name in needed if not hasattr(judge, name)]:
        raise SettingsError(
            f"'{plug.callable}' gives a {type(judge).__name__} without {', '.join(missing)}",
            allowed=f"an object with {', '.join(needed)}",
        )
    return judge


def _bench(settings: Settings, context: StageContext, judge: Judge) -> Bench:
    """Base and LoRA, and what their images are judged with."""
    from components.diffusion import load_policy
    from components.evaluation.baselines.run import Bench
    from components.rewards.scorers import build_scorer

    scorer = build_scorer(settings.reward, context.compute, context.root)
    policy = load_policy(context.base.without_sde(), context.compute, lora=context.root / LORA)
    return Bench(policy, judge, scorer, context.seed_for, settings.num_resamples)


def _draw_and_measure(bench: Bench, draws: Draws) -> tuple[Measured, Measured]:
    """Base and LoRA from the same noise."""
    from components.diffusion import sample_images
    from components.evaluation.measure import measure

    base = bench.draw(draws.texts, draws.seeds, "drawing with the base")
    lora, _ = sample_images(
        bench.policy, draws.texts, draws.seeds, adapter="train", description="drawing with the LoRA"
    )
    return (
        measure(base, draws, bench.judge, bench.scorer, "the base"),
        measure(lora, draws, bench.judge, bench.scorer, "the LoRA"),
    )


def _inputs(settings: Settings, context: StageContext) -> dict[str, Path]:
    """What the figures hang on, by a name for the reader; a hub model has no folder here."""
    reward = {
        "reward model" if number == 1 else f"reward model {number}": path
        for number, path in enumerate(trained_models(settings.reward), 1)
    }
    inputs = {"base": context.base.path, "prompts": PROMPTS, "LoRA": LORA, **reward}
    inputs |= {"curves": CURVES}
    inputs |= {f"{name} report": path for name, path in _earlier_reports(context.root).items()}
    return {name: Path(path) for name, path in inputs.items() if (context.root / path).exists()}


def _earlier_reports(root: Path) -> dict[str, Path]:
    paths = {name: Path("reports") / f"{name}.json" for name in EARLIER}
    return {name: path for name, path in paths.items() if (root / path).exists()}


def _by_category(evaluation: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    return [
        (name, task["base"]["correct"], task["lora"]["correct"])
        for name, task in evaluation["by_category"].items()
    ]
