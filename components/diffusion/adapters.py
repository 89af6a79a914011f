"""The LoRA on a network (2106.09685): made, listed, saved, loaded.

The file has diffusers' own layout, so that `pipe.load_lora_weights(folder)` gives the same images.
Its metadata holds alpha: without it diffusers would silently take alpha = rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.contracts.artifacts import read_safetensors, write_safetensors
from components.contracts.errors import DataError, ModelError, SettingsError

WEIGHTS = "pytorch_lora_weights.safetensors"
METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers looks for rank and alpha in the header of the file."""

# The adapter that the rest of the code calls "train": torch modules have a method of that name.
_NAME = "policy"


def add_lora(
    network: nn.Module, rank: int, alpha: int, targets: Sequence[str], generator: torch.Generator
) -> list[str]:
    """Put a LoRA on the network: A random, B zero, so that nothing changes before the first update.

    Args:
        network: a diffusers model; its own weights stay frozen.
        rank: of the update B·A.
        alpha: the update is scaled by alpha / rank.
        targets: ends of module names.
        generator: a CPU generator for A.

    Returns:
        Names of the reached modules, in the order of the network.

    Raises:
        SettingsError: a target names no linear layer or convolution.
    """
    from peft import LoraConfig

    names = [name for name, module in network.named_modules() if _can_carry(module)]
    for target in targets:
        if not any(_ends_with(name, target) for name in names):
            endings = sorted({".".join(name.split(".")[-2:]) for name in names})
            raise SettingsError(
                f"lora target '{target}' names no layer", allowed=", ".join(endings)
            )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0)
    # peft draws from the global generator; those draws are thrown away and must leave no trace.
    with torch.random.fork_rng(devices=_accelerators(network)):
        network.add_adapter(config, adapter_name=_NAME)  # type: ignore[operator]
    with torch.no_grad():
        for name, parameter in lora_parameters(network):
            if ".lora_A." in name:
                # As peft: uniform with bound 1 / sqrt(fan in).
                values = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
                parameter.copy_(values)
            else:
                parameter.zero_()
    return [name for name in names if any(_ends_with(name, target) for target in targets)]


def lora_parameters(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of the adapter, in the order of the network."""
    return [(name, p) for name, p in network.named_parameters() if f".{_NAME}." in name]


@contextmanager
def without_lora(network: nn.Module) -> Iterator[None]:
    """The base network inside the block: no second copy of its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_lora(network: nn.Module, folder: Path, prefix: str) -> Path:
    """Write the adapter to `folder`; equal weights give equal bytes.

    Args:
        network: with an adapter.
        folder: where the file goes.
        prefix: of the keys, by which diffusers finds the network: `unet` or `transformer`.

    Returns:
        The file.

    Raises:
        ModelError: there is no adapter to save.
    """
    parameters = lora_parameters(network)
    if not parameters:
        raise ModelError("the policy has no adapter to save", allowed="add_adapter first")
    tensors = {_file_key(name, prefix): parameter for name, parameter in parameters}
    configs: Any = network.peft_config
    config = configs[_NAME]
    facts = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(config.target_modules),
    }
    packed = json.dumps({f"{prefix}.{key}": value for key, value in facts.items()}, sort_keys=True)
    # One key only: safetensors writes several in an order that changes from run to run.
    write_safetensors(folder / WEIGHTS, tensors, {METADATA_KEY: packed})
    return folder / WEIGHTS


def load_lora(network: nn.Module, folder: Path, prefix: str) -> list[str]:
    """Put a saved adapter on the network, or refuse it as a whole; `prefix` as in `save_lora`.

    Returns:
        Names of the reached modules.

    Raises:
        ModelError: the file is missing, truncated, made for another network, has no alpha, or holds
            numbers that are not finite.
    """
    path = folder / WEIGHTS
    try:
        tensors = read_safetensors(path)
    except DataError as error:
        raise ModelError(str(error)) from None
    facts = _facts(path, prefix)
    for key, tensor in tensors.items():
        if not key.startswith(f"{prefix}."):
            raise ModelError(
                f"key '{key}' is not of this base's network", file=path, allowed=f"{prefix}...."
            )
        if not bool(tensor.isfinite().all()):
            raise ModelError("holds NaN or infinite numbers", file=path, place=key)
    try:
        reached = add_lora(
            network, facts["r"], facts["lora_alpha"], facts["target_modules"], torch.Generator()
        )
    except SettingsError as error:
        raise ModelError(f"is for another base model: {error}", file=path) from None
    own = {_file_key(name, prefix): parameter for name, parameter in lora_parameters(network)}
    odd = sorted(own.keys() ^ tensors.keys())
    if odd:
        kind = "is missing" if odd[0] in own else "is unknown to the base model"
        raise ModelError(f"{kind} ({len(odd)} such keys)", file=path, place=odd[0])
    for key, parameter in own.items():
        if parameter.shape != tensors[key].shape:
            raise ModelError(
                f"has shape {list(tensors[key].shape)}",
                file=path,
                place=key,
                allowed=str(list(parameter.shape)),
            )
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(tensors[key])
    return reached


def _facts(path: Path, prefix: str) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    try:
        packed = json.loads(metadata[METADATA_KEY])
        facts = {name: packed[f"{prefix}.{name}"] for name in ("r", "lora_alpha", "target_modules")}
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"does not say its rank and alpha (metadata '{METADATA_KEY}')",
            file=path,
            allowed="a LoRA saved by Konomi, or by diffusers with adapter metadata",
        ) from None
    return facts


def _file_key(parameter_name: str, prefix: str) -> str:
    return f"{prefix}." + parameter_name.replace(f".{_NAME}.", ".")


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _can_carry(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def _accelerators(module: nn.Module) -> list[torch.device]:
    return list({p.device for p in module.parameters() if p.device.type == "cuda"})
