"""Which weights of a reward model learn: all, the last layers, the head, or a LoRA."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from components.contracts.errors import SettingsError
from components.rewards.backbones import RewardModel
from components.rewards.backbones.frozen_mlp import FrozenMlp
from components.rewards.settings import BackboneSettings, LoraSettings

Named = list[tuple[str, nn.Parameter]]


def set_trainable(
    model: RewardModel, settings: BackboneSettings, generator: torch.Generator
) -> Named:
    """Freeze everything else, and return the names and weights that learn.

    Args:
        model: changed in place; `settings.lora` puts low-rank updates into its towers, which
            `merge_lora` makes part of the weights.
        settings: what learns.
        generator: CPU generator of the LoRA's start.

    Raises:
        SettingsError: the LoRA reaches no layer.
    """
    of_towers = {id(p) for tower in model.towers.values() for p in tower.parameters()}
    learning = {id(p) for p in model.parameters()} - of_towers
    if not isinstance(model, FrozenMlp):
        if settings.lora is not None:
            learning |= _add_lora(model, settings.lora, generator)
        elif settings.trainable != "heads":
            for tower in model.towers.values():
                names = _last_third(tower) if settings.trainable == "last_layers" else [""]
                learning |= {
                    id(parameter)
                    for name, parameter in tower.named_parameters()
                    if name.startswith(tuple(names))
                }
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in learning)
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def merge_lora(model: RewardModel) -> None:
    """Add low-rank updates to the weights that they update: the model has its own layers again."""
    from peft.tuners.lora import LoraLayer

    for tower in model.towers.values():
        for name, module in list(tower.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                parent, _, leaf = name.rpartition(".")
                setattr(tower.get_submodule(parent), leaf, module.get_base_layer())


def _add_lora(model: RewardModel, settings: LoraSettings, generator: torch.Generator) -> set[int]:
    """A random, B zero: nothing changes before the first update."""
    from peft import LoraConfig, inject_adapter_in_model

    found: set[int] = set()
    for kind, tower in model.towers.items():
        linear = [name for name, module in tower.named_modules() if isinstance(module, nn.Linear)]
        reached = [name for name in linear if name.split(".")[-1] in settings.targets]
        if not reached:
            continue
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=reached,
            lora_dropout=0.0,
        )
        # peft draws from the global generator; those draws are thrown away and leave no trace.
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, tower, adapter_name=kind)
        for name, parameter in tower.named_parameters():
            if "lora_" not in name:
                continue
            found.add(id(parameter))
            with torch.no_grad():
                if "lora_A" in name:
                    values = torch.empty(parameter.shape)
                    nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
                    parameter.copy_(values)
                else:
                    parameter.zero_()
    if not found:
        endings = {
            name.split(".")[-1]
            for tower in model.towers.values()
            for name, module in tower.named_modules()
            if isinstance(module, nn.Linear)
        }
        raise SettingsError(
            f"backbone.lora.targets {', '.join(settings.targets)} name no layer of the towers",
            allowed=", ".join(sorted(endings)),
        )
    return found


def _last_third(tower: nn.Module) -> list[str]:
    """Names of a tower's last layers and of what follows its encoder, rounded up."""
    # One list of layers in a transformer (`layers` or BERT's `layer`); stages with a list each in a
    # convolutional tower.
    layers = [
        name
        for name, _ in tower.named_modules()
        if re.search(r"(?:^|\.)encoder\.(?:.*\.)?layers?\.\d+$", name)
    ]
    if not layers:
        raise SettingsError(
            f"a tower of kind {type(tower).__name__} has no list of layers",
            allowed="backbone.trainable all or heads",
        )
    last = layers[len(layers) - math.ceil(len(layers) / 3) :]
    behind = [name for name, _ in tower.named_children() if name not in ("embeddings", "encoder")]
    return [f"{name}." for name in (*last, *behind)]
