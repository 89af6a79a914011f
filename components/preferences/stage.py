"""The body of stage 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.contracts.artifacts import atomic_path, write_csv, write_json
from components.contracts.settings import PluginSettings
from components.contracts.stage import StageContext, log_inputs
from components.preferences.candidates import candidates_of, choose_pairs, choose_prompts
from components.preferences.records import Album, PromptRow, read_prompts
from components.preferences.report import summarise
from components.preferences.settings import Settings

PROMPTS = Path("data/prompts")
DATA = Path("data/preferences")
REPORT = Path("reports/preferences.json")
BY_CATEGORY = Path("reports/preferences_by_category.csv")


def run(settings: Settings, context: StageContext) -> dict[str, float]:
    """Draw candidates and ask people, or import what people have said; then report.

    Raises:
        DataError, ModelError, SettingsError: an input cannot be used; earlier outputs stay.
    """
    prompts = read_prompts(context.root / PROMPTS)
    inputs = {"prompts": PROMPTS}
    for number, source in enumerate(settings.sources):
        inputs[f"labels_{number}" if number else "labels"] = Path(source.path)
    if not settings.sources and (context.root / context.base.path).is_dir():
        inputs["base"] = Path(context.base.path)

    skipped: Mapping[str, int] = {}
    with atomic_path(context.root / DATA) as folder:
        folder.mkdir()
        with Album(folder, settings.images_per_shard) as album:
            if settings.people:
                _draw_and_judge(album, settings, settings.people, context, prompts)
            else:
                from components.preferences.importing import import_labels

                skipped = import_labels(album, settings, context.root, prompts, context.seed_for())
        report = summarise(folder, skipped)
    log_inputs(context, **inputs)
    write_json(context.root / REPORT, report)
    write_csv(
        context.root / BY_CATEGORY,
        ("category", "decided_fraction"),
        [
            (name, figures["decided_fraction"])
            for name, figures in report["categories"].items()
            if figures
        ],
    )
    for path in (REPORT, BY_CATEGORY):
        context.tracker.log_artifact(context.root / path)
    return _metrics(report)


def _draw_and_judge(
    album: Album,
    settings: Settings,
    plug: PluginSettings,
    context: StageContext,
    prompts: list[PromptRow],
) -> None:
    """Fill the album shard by shard, so that memory does not grow with the number of images."""
    from components.diffusion import load_policy, sample_images
    from components.preferences.annotate import build_people, judge_pairs

    seed = context.seed_for()
    people = build_people(plug, settings.annotators_per_pair)
    chosen = choose_prompts(prompts, settings, seed)
    policy = load_policy(context.base, context.compute)
    per_shard = max(1, settings.images_per_shard // settings.samples_per_prompt)
    shards = [chosen[start : start + per_shard] for start in range(0, len(chosen), per_shard)]
    for number, shard in enumerate(shards, start=1):
        groups = [
            candidates_of(prompt, policy.digest, settings.samples_per_prompt, seed)
            for prompt in shard
        ]
        samples = [sample for group in groups for sample in group]
        drawn, x0 = sample_images(
            policy,
            [sample.prompt.prompt for sample in samples],
            [sample.seed for sample in samples],
            adapter="reference",
            description=f"candidates, part {number} of {len(shards)}",
        )
        names = [sample.sample_id for sample in samples]
        images = dict(zip(names, drawn.cpu(), strict=True))
        latents = dict(zip(names, x0.cpu(), strict=True))
        album.add_shard(samples, images, latents)
        pairs = [
            pair
            for group in groups
            for pair in choose_pairs(group, settings.pairs_per_prompt, seed)
        ]
        album.add(judge_pairs(people, pairs, images, settings.annotators_per_pair, seed))


def _metrics(report: dict[str, Any]) -> dict[str, float]:
    """The report's figures under one-level names, for the tracker; what is null has no figure."""
    whole = {key: value for key, value in report.items() if not isinstance(value, dict)}
    pairs = {f"pairs_{split}": figures["pairs"] for split, figures in report["splits"].items()}
    return {key: value for key, value in {**whole, **pairs}.items() if value is not None}
