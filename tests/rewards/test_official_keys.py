"""The official checkpoints at full size, name by name and shape by shape, without their weights.

The lists in `keys/` were written down from the authors' own programs; each says from which. Modules
are built without memory for their parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

from components.rewards.scorers import aesthetic, hps_v2, hps_v3_network, image_reward
from components.rewards.scorers.checkpoints import Source, published_shapes, unallocated
from tests.rewards.tiny_networks import KEYS, published

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[str], Source], tuple[str, ...]]] = {
    "hps_v2": (
        lambda: CLIPModel(CLIPConfig(**hps_v2.ARCHITECTURE)),
        hps_v2.open_clip_name,
        (),
    ),
    "aesthetic": (lambda: aesthetic.LinearStack(768), Source, ()),
    "image_reward": (
        image_reward.Blip,
        image_reward.official_name,
        image_reward.NOT_NEEDED,
    ),
    "hps_v3": (
        hps_v3_network.RewardQwen,
        hps_v3_network.official_name,
        hps_v3_network.NOT_NEEDED,
    ),
    # transformers reads this one itself; it must still be the network that the settings promise.
    "pick_score": (
        lambda: CLIPModel(CLIPConfig(**hps_v2.ARCHITECTURE)),
        Source,
        ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
    ),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], Any, tuple[str, ...]]:
    """Name, our state without memory, naming, and what the file may hold beside it."""
    build, naming, not_needed = NETWORKS[request.param]
    with unallocated():
        return request.param, build(), naming, not_needed


def test_the_names_and_shapes_are_those_of_the_published_list(network: Any) -> None:
    name, module, naming, not_needed = network
    expected = published(name)
    for extra in not_needed:
        expected.pop(extra)
    assert published_shapes(module, naming) == expected


def test_every_published_number_has_one_place(network: Any) -> None:
    name, module, naming, not_needed = network
    own = module.state_dict()
    places = {(naming(key).name, naming(key).part) for key in own}
    assert len(places) == len(own)
    shapes = published(name)
    values = sum(torch.Size(shape).numel() for shape in shapes.values())
    beside = sum(torch.Size(shapes[extra]).numel() for extra in not_needed)
    assert sum(tensor.numel() for tensor in own.values()) == values - beside


def test_no_weight_takes_memory_before_its_file_is_read(network: Any) -> None:
    _, module, _, _ = network
    assert {tensor.device.type for tensor in module.parameters()} == {"meta"}
    assert {tensor.device.type for tensor in module.buffers()} <= {"cpu"}


LAYERS: dict[str, dict[str, Callable[[Any], tuple[Any, Any, Any]]]] = {
    "hps_v2": {
        "vision": lambda m: _clip_layer(m.vision_model),
        "text": lambda m: _clip_layer(m.text_model),
    },
    "image_reward": {
        "vision": lambda m: _blip_layer(m.vision.encoder.layers[0]),
        "text": lambda m: _bert_layer(m.text.encoder.layer[0]),
    },
    "hps_v3": {
        "vision": lambda m: _sight_layer(m.qwen.visual.blocks[0]),
        "text": lambda m: _qwen_layer(m.qwen.language_model.layers[0]),
    },
}
"""Of each tower: heads, epsilon of the norms, and activation, from its first layer."""


def _clip_layer(tower: Any) -> tuple[Any, Any, Any]:
    layer = tower.encoder.layers[0]
    return layer.self_attn.num_heads, layer.layer_norm1.eps, layer.mlp.activation_fn


def _blip_layer(layer: Any) -> tuple[Any, Any, Any]:
    return layer.self_attn.num_heads, layer.layer_norm1.eps, layer.mlp.activation_fn


def _bert_layer(layer: Any) -> tuple[Any, Any, Any]:
    heads = {part.self.num_attention_heads for part in (layer.attention, layer.crossattention)}
    return heads.pop(), layer.output.LayerNorm.eps, layer.intermediate.intermediate_act_fn


def _sight_layer(layer: Any) -> tuple[Any, Any, Any]:
    return layer.attn.num_heads, layer.norm1.eps, layer.mlp.act


def _qwen_layer(layer: Any) -> tuple[Any, Any, Any]:
    attention = layer.self_attn
    heads = attention.config.num_attention_heads
    assert attention.head_dim * heads == attention.config.hidden_size
    return heads, layer.input_layernorm.variance_epsilon, layer.mlp.act_fn


@pytest.mark.parametrize("name", LAYERS)
def test_what_no_shape_tells_is_as_published_too(name: str) -> None:
    with unallocated():
        module: Any = NETWORKS[name][0]()
    facts = json.loads((KEYS / f"{name}.json").read_text())["beyond_shapes"]
    assert facts.keys() == {"vision", "text"}
    for tower, found in LAYERS[name].items():
        heads, eps, activation = found(module)
        assert (heads, eps) == (facts[tower]["heads"], facts[tower]["norm_eps"])
        assert float(activation(torch.tensor(1.0))) == pytest.approx(
            facts[tower]["activation_of_1"], abs=1e-6
        )
    if "rope_theta" in facts["text"]:
        rope = module.qwen.config.text_config.rope_parameters
        assert rope["rope_theta"] == facts["text"]["rope_theta"]


@pytest.mark.parametrize(
    ("name", "gibibytes"),
    [("hps_v2", 3.67), ("image_reward", 1.66), ("pick_score", 3.67)],
)
def test_the_lists_have_the_size_of_the_published_files(name: str, gibibytes: float) -> None:
    values = sum(torch.Size(shape).numel() for shape in published(name).values())
    assert values * 4 / 2**30 == pytest.approx(gibibytes, abs=0.01)
