"""Ids, derived seeds and plugs."""

from __future__ import annotations

import hashlib

import pytest
import torch

from components.contracts.errors import SettingsError
from components.contracts.ids import pair_id, prompt_id, sample_id
from components.contracts.plugins import load_callable
from components.contracts.seeds import derive_seed, numpy_generator, torch_generator


def test_an_id_is_a_hash_of_the_content_and_nothing_else() -> None:
    assert prompt_id("a cat") == "p_" + hashlib.sha256(b"a cat").hexdigest()[:16]
    assert sample_id("p_1", "m", 23) != sample_id("p_1", "m2", 3)
    assert pair_id("s_1", "s_2") == pair_id("s_2", "s_1") != pair_id("s_1", "s_3")
    assert len({prompt_id("x"), sample_id("x", "", 0), pair_id("x", "")}) == 3


def test_seeds_depend_on_every_label_and_fit_torch() -> None:
    seeds = {
        derive_seed(seed, *labels)
        for seed in (0, 1, 2**62)
        for labels in ((), ("a",), ("b",), ("a", 1), ("a", 2), ("a", "b"))
    }
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(7, "a", 1) == derive_seed(7, "a", 1)


def test_generators_are_derived_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    draws = [torch.rand(3, generator=torch_generator(7, "x")) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], torch.rand(3, generator=torch_generator(7, "y")))
    assert numpy_generator(7, "x").random() == numpy_generator(7, "x").random()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("dotted", "expected"),
    [
        ("math", "is no dotted path"),
        ("no.such.module:f", "cannot be imported"),
        ("math:sine", "no callable 'sine' in math; allowed: "),
        ("math:pi", "no callable 'pi'"),
    ],
)
def test_a_plug_that_cannot_be_loaded_says_what_can(dotted: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        load_callable(dotted)


def test_a_plug_is_the_object_that_is_named() -> None:
    assert load_callable("hashlib:sha256") is hashlib.sha256
