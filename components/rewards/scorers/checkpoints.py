"""Published weights, opened and put into the module that they belong to.

A weight file is a safetensors or a torch file that holds tensors and nothing else; both are mapped
into memory, not copied. Its names are those of the program that trained it. A `Naming` says where
each weight of ours stands in it, so that the names which a file must hold follow from our module,
and every name of a file that does not fit is an error that names it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from torch import Tensor, nn

from components.contracts.errors import ModelError
from components.rewards.scorers.hub import FORMS, first_line

WRAPPERS = ("state_dict", "model")
"""Keys under which a training program puts the weights beside its other things."""
NUM_PARTS = 3
"""Query, key and value, in this order, where a file keeps them as one matrix."""


@dataclass(frozen=True)
class Source:
    """Where a published file keeps one weight of ours."""

    name: str
    """Its name in the file."""
    part: int | None = None
    """0, 1 or 2: which third of the rows it is, where the file keeps three weights as one."""
    transposed: bool = False
    """Whether the file keeps the matrix as [in, out]."""

    def shape_in_file(self, shape: torch.Size) -> list[int]:
        """The shape of the file's tensor when ours has `shape`."""
        lengths = list(shape)
        if self.part is not None:
            lengths[0] *= NUM_PARTS
        return lengths[::-1] if self.transposed else lengths

    def take(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Our weight."""
        tensor = weights[self.name]
        if self.part is not None:
            tensor = tensor.chunk(NUM_PARTS)[self.part]
        return tensor.t().contiguous() if self.transposed else tensor


Naming = Callable[[str], Source]
"""From the name of a weight in our module to its place in the published file."""
Module = TypeVar("Module", bound=nn.Module)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file, on the CPU, by their names in it.

    Raises:
        ModelError: there is no such file, it is truncated, or it holds something else.
    """
    if not path.is_file():
        raise ModelError("no such file", file=path, allowed=FORMS)
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            # A file of torch before 1.6 is no zip and cannot be mapped.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        # Whatever a damaged file makes a parser raise; with weights_only none of it is run.
        raise ModelError(
            f"is truncated, or is no weight file ({first_line(error)})", file=path, allowed=FORMS
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise ModelError("holds something other than named tensors", file=path, allowed=FORMS)
    return dict(content)


def unallocated() -> AbstractContextManager[None]:
    """Modules made inside have parameters without memory, which `load_weights` then supplies.

    Their buffers are real: no file holds what can be computed.
    """
    return init_empty_weights(include_buffers=False)


def published_shapes(module: nn.Module, naming: Naming) -> dict[str, list[int]]:
    """Names and shapes that a file for `module` must hold."""
    sources = ((naming(name), tensor.shape) for name, tensor in module.state_dict().items())
    return {source.name: source.shape_in_file(shape) for source, shape in sources}


def load_weights(
    module: Module,
    path: Path,
    what: str,
    naming: Naming = Source,
    not_needed: Collection[str] = (),
) -> Module:
    """`module` with the weights of a file, frozen, in its own types, in evaluation mode.

    `what` names the architecture in messages. `not_needed` are names that the file may hold and
    that no score comes from.

    Raises:
        ModelError: as `read_weights`, or a name is missing, unknown, or of another shape.
    """
    weights = read_weights(path)
    _check_names(weights, published_shapes(module, naming), not_needed, path, what)
    own = {
        name: naming(name).take(weights).to(tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(own, assign=True)
    return module.eval().requires_grad_(False)


def _check_names(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, list[int]],
    not_needed: Collection[str],
    path: Path,
    what: str,
) -> None:
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected and name not in not_needed]
    shapes = {name: list(weights[name].shape) for name in expected if name in weights}
    others = [name for name, shape in shapes.items() if shape != expected[name]]
    problems = []
    if missing:
        problems.append(f"{len(missing)} weights missing, first {missing[0]}")
    if unknown:
        problems.append(f"{len(unknown)} unknown, first {unknown[0]}")
    if others:
        first = others[0]
        problems.append(
            f"{len(others)} of another shape, first {first} {shapes[first]} for {expected[first]}"
        )
    if problems:
        raise ModelError(
            f"holds another architecture: {'; '.join(problems)}",
            file=path,
            allowed=f"the {len(expected)} weights of {what}",
        )
