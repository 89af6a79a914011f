"""A scorer of one's own: `{name: python, callable: "package.module:name", arguments: {}}`.

The callable is either of two things:

    a function   f(images, prompts, **arguments), which gives one number an image
    a maker      a class, or a function that `arguments` alone satisfy; it gives an object with a
                 method score(images, prompts), or such a function

Numbers come as a tensor, an array or a list. With `differentiable: false` the images are bytes, and
with `differentiable: true` floats in [0, 1]: whoever writes one meets one kind of image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.contracts.errors import GuardError, SettingsError
from components.contracts.plugins import build_plug, load_callable
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_bytes, as_float
from components.rewards.scorers.settings import PythonScorerSettings


class PythonScorer:
    """Calls somebody else's code."""

    def __init__(
        self, call: Callable[[Tensor, Sequence[str]], Any], dotted: str, differentiable: bool
    ) -> None:
        self._call, self._dotted = call, dotted
        self.differentiable = differentiable

    @classmethod
    def build(
        cls, settings: PythonScorerSettings, compute: ComputeSettings, root: Path
    ) -> PythonScorer:
        """Make what `settings.callable` names ready to score.

        Raises:
            SettingsError: the path cannot be imported, the call refuses its arguments, or the
                result cannot score.
        """
        made = load_callable(settings.callable)
        if _is_function(made, settings.arguments):
            call: Any = partial(made, **settings.arguments)
        else:
            made = build_plug(settings)
            call = getattr(made, "score", made)
        if not callable(call):
            raise SettingsError(
                f"'{settings.callable}' gives a {type(made).__name__} without a method 'score'",
                allowed="an object with score(images, prompts), or a function of the two",
            )
        return cls(call, settings.callable, settings.differentiable)

    def score(self, images: Images, prompts: Sequence[str]) -> Tensor:
        """Scores, any scale, higher is better.

        Raises:
            GuardError: what came back are no numbers.
        """
        given = as_float(images) if self.differentiable else as_bytes(images)
        found = self._call(given, prompts)
        try:
            return torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise GuardError(
                f"'{self._dotted}' scored {len(images)} images with a {type(found).__name__} that "
                f"holds no numbers ({error})"
            ) from None


def _is_function(made: Callable[..., Any], arguments: dict[str, Any]) -> bool:
    """Whether it lacks just images and prompts, in the place of being complete without them."""
    if inspect.isclass(made):
        return False
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        return False
    return not _takes(signature, (), arguments) and _takes(signature, (None, None), arguments)


def _takes(signature: inspect.Signature, given: tuple[Any, ...], arguments: dict[str, Any]) -> bool:
    try:
        signature.bind(*given, **arguments)
    except TypeError:
        return False
    return True
