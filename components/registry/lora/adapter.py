"""The LoRA file as a stranger would read it: its header first, its numbers only when that is
sane."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contracts.artifacts import read_json, read_safetensors
from components.contracts.errors import DataError
from components.registry.gates import Gate, at_most
from components.registry.safetensors_file import FLOATS, Header, read_header
from components.registry.settings import GateSettings

WEIGHTS = "pytorch_lora_weights.safetensors"
INFO = "adapter.json"
# The prefix is what makes plain diffusers find the layer: without it the file loads, without an
# error, as a LoRA of nothing.
_KEY = re.compile(r"(?P<network>\w+)\.[\w.]+?\.(lora\.(down|up)|lora_(A|B))\.weight", re.ASCII)


@dataclass(frozen=True)
class Adapter:
    """A LoRA file."""

    header: Header
    settings: dict[str, Any]
    """The adapter's settings that diffusers keeps inside the file: rank and alpha, by component."""
    info: dict[str, Any]
    """`adapter.json`, which finetuning wrote beside the file."""


def read_adapter(folder: Path) -> Adapter:
    """Read the header of the LoRA in `folder`; no tensor is loaded.

    Raises:
        DataError: the file is missing, truncated, or no safetensors file.
    """
    header = read_header(folder / WEIGHTS)
    try:
        settings = json.loads(header.metadata.get("lora_adapter_metadata", "{}"))
    except ValueError as error:
        raise DataError(f"lora_adapter_metadata is not json ({error})", file=header.path) from None
    return Adapter(header, settings, read_json(folder / INFO))


def file_gates(adapter: Adapter, limits: GateSettings, network: str) -> list[Gate]:
    """The gates on the file's header.

    Args:
        adapter: the header.
        limits: of its size and rank.
        network: the prefix of keys that the base's pipeline looks for, `unet` or `transformer`.
    """
    shapes = adapter.header.tensors
    megabytes = round(adapter.header.num_bytes / 1e6, 3)
    types = sorted({dtype for dtype, _ in shapes.values()})
    found = {key: _KEY.fullmatch(key) for key in shapes}
    strange = sorted(k for k, match in found.items() if not match or match["network"] != network)
    lonely = sorted(key for key in shapes if key not in strange and _other(key) not in shapes)
    ranks = [shape[0] for key, (_, shape) in shapes.items() if _is_down(key) and shape]
    rank = max(ranks, default=0)
    alphas = {value for key, value in adapter.settings.items() if key.endswith("lora_alpha")}
    demanded = adapter.info.get("alpha")
    return [
        at_most("lora_megabytes", megabytes, limits.max_megabytes, "size of the LoRA file"),
        Gate(
            "lora_types",
            " ".join(types) or "none",
            " ".join(FLOATS),
            bool(types) and set(types) <= set(FLOATS),
            "number types that every reader knows",
        ),
        Gate(
            "lora_keys",
            (strange + lonely)[0] if strange or lonely else f"{len(shapes)} known",
            f"{network}.…, in pairs",
            bool(shapes) and not strange and not lonely,
            "plain diffusers drops other keys without an error",
        ),
        Gate(
            "lora_rank",
            rank,
            f"1 to {limits.max_rank}",
            1 <= rank <= limits.max_rank,
            "largest rank of a layer",
        ),
        Gate(
            "lora_alpha",
            ", ".join(f"{alpha:g}" for alpha in sorted(alphas)) or None,
            f"{demanded:g}" if isinstance(demanded, int | float) else f"named in {INFO}",
            alphas == {demanded},
            "without it the file loads at another strength",
        ),
    ]


def number_gates(adapter: Adapter) -> list[Gate]:
    """The gates on the numbers themselves; the file is read whole."""
    tensors = read_safetensors(adapter.header.path)
    broken = sorted(key for key, tensor in tensors.items() if not bool(tensor.isfinite().all()))
    moved = sum(bool(tensor.any()) for key, tensor in tensors.items() if not _is_down(key))
    return [
        Gate(
            "lora_finite",
            broken[0] if broken else "all",
            "all",
            not broken,
            "a single NaN turns every image black",
        ),
        Gate(
            "lora_moved",
            moved,
            "> 0",
            moved > 0,
            "layers whose second factor is not zero: else the LoRA changes nothing",
        ),
    ]


def _is_down(key: str) -> bool:
    return key.endswith((".lora.down.weight", ".lora_A.weight"))


def _other(key: str) -> str:
    """The key of the other factor of the same layer."""
    for one, two in ((".lora.down.", ".lora.up."), (".lora_A.", ".lora_B.")):
        if one in key:
            return key.replace(one, two)
        if two in key:
            return key.replace(two, one)
    return ""
