"""Captions, prompts, renders and sprites of the miniature world."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from components.miniature import backgrounds, sprites
from components.miniature.prompts import listed_prompts
from components.miniature.scenes import (
    Scene,
    all_scenes,
    caption,
    near_miss,
    parse_prompt,
    read_prompts,
    recolour,
    render,
    sample_scene,
)
from components.miniature.world import COLOURS, HELD_OUT_STYLE, OBJECTS, PLACES, STYLES, TASKS


def test_every_listed_prompt_survives_the_round_trip() -> None:
    rows = read_prompts()
    assert len(rows) > 800
    for prompt, category in rows:
        scene = parse_prompt(prompt)
        assert caption(scene) == prompt
        assert scene.task == category


def test_every_scene_survives_the_round_trip() -> None:
    for task in TASKS:
        for scene in all_scenes(task):
            assert parse_prompt(caption(scene)) == scene


def test_the_shipped_prompts_are_what_the_script_writes() -> None:
    assert read_prompts() == listed_prompts()
    prompts = [prompt for prompt, _ in read_prompts()]
    assert len(set(prompts)) == len(prompts)


def test_every_object_stands_in_equally_many_pairs() -> None:
    pairs = [parse_prompt(prompt) for prompt, task in read_prompts() if task == "composition"]
    counts = Counter(name for scene in pairs for name, _, _ in scene.objects)
    assert set(counts.values()) == {16}
    assert len({frozenset(scene.objects) for scene in pairs}) == len(pairs)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dog",
        "a dog on the mars",
        "a zebra",
        "a orange rabbit",
        "six wolves",
        "four wolf",
        "a red dog on the moon",
        "two cats and a dog",
        "a dog and a dog",
        "a Dog",
        "a green  rabbit",
    ],
)
def test_a_foreign_prompt_is_named_in_the_error(text: str) -> None:
    with pytest.raises(ValueError, match="not of the miniature world") as error:
        parse_prompt(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_generator_draws_the_same_picture(task: str) -> None:
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(5):
        one = render(sample_scene(first, task), first, STYLES[:1])
        other = render(sample_scene(second, task), second, STYLES[:1])
        assert one.shape == (64, 64, 3) and one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)


def test_four_wolves_leave_four_separate_spots() -> None:
    image = render(parse_prompt("four wolves"), np.random.default_rng(0)).astype(float)
    dark = image.min(-1) < 215
    for rows in (slice(0, 32), slice(32, 64)):
        for columns in (slice(0, 32), slice(32, 64)):
            assert dark[rows, columns].mean() > 0.2


def test_the_moon_is_dark_above_and_grey_below() -> None:
    image = backgrounds.draw("moon", np.random.default_rng(0))
    assert image[:15].mean() < 40
    assert 100 < image[-10:].mean() < 190
    assert np.ptp(image[-10:], axis=-1).mean() < 15


def test_paints_are_clearly_different() -> None:
    sprite = sprites.load()["noto", "rabbit"]
    visible = sprite[..., 3] > 200
    means = [recolour(sprite, paint)[visible][:, :3].mean(0) for paint in COLOURS.values()]
    for i, one in enumerate(means):
        for other in means[:i]:
            assert np.linalg.norm(one - other) > 35


def test_a_scene_that_no_style_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="a rabbit"):
        render(parse_prompt("a rabbit"), np.random.default_rng(0), ["fxemoji"])
    with pytest.raises(ValueError, match="at most 5"):
        render(Scene((("cat", 6, None),)), np.random.default_rng(0))


def test_places_differ_from_each_other() -> None:
    # Sky and ground apart: the moon and the city at night are equally dark as a whole.
    looks = []
    for place in PLACES:
        image = backgrounds.draw(place, np.random.default_rng(1))
        looks.append(np.stack([image[:24].mean((0, 1)), image[40:].mean((0, 1))]))
    for i, one in enumerate(looks):
        for other in looks[:i]:
            assert np.abs(one - other).max() > 20


def test_every_style_but_one_is_complete_and_attributed() -> None:
    drawn = Counter(style for style, _ in sprites.load())
    assert set(drawn) == set(STYLES)
    assert all(drawn[s] == len(OBJECTS) for s in STYLES if s != "fxemoji")
    assert drawn[HELD_OUT_STYLE] == len(OBJECTS)
    lines = (sprites.ATLAS_DIR / "ATTRIBUTION.md").read_text().splitlines()
    for style in STYLES:
        row = next(line for line in lines if line.startswith(f"| {style} |"))
        assert any(name in row for name in ("Apache-2.0", "CC-BY-4.0", "MIT"))
        assert "SA" not in row


@pytest.mark.parametrize("task", TASKS)
def test_a_near_miss_differs_in_one_thing(task: str) -> None:
    rng = np.random.default_rng(3)
    seen = set()
    for scene in all_scenes(task)[::7]:
        miss = near_miss(scene, rng)
        seen.add(miss)
        assert miss != scene and miss.task == task
        assert miss in all_scenes(task), "not a scene that has a caption"
        words, wrong = caption(scene).split(), caption(miss).split()
        if task == "location":
            assert miss.objects == scene.objects
        elif task == "composition":
            names = {name for name, _, _ in scene.objects}
            assert len(names & {name for name, _, _ in miss.objects}) == 1
        elif task in ("colour", "count"):
            assert words[-1] == wrong[-1], "the object stays"
    assert len(seen) > 1
