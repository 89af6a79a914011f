"""How a block of `params.yaml` becomes a frozen, strict object.

Each room owns the model of its own block (`components/<stage>/settings.py`, class `Settings`) and
each method its own settings class. An unknown key is an error that lists the choices; a value of
another type or out of range names the line. Numbers follow YAML 1.2, as DVC reads them: `1e-4` is a
float.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.contracts.errors import SettingsError

STAGES = ("prompts", "preferences", "rewards", "finetuning", "evaluation", "registry")
"""The six stages in the order in which data flows."""


class StrictModel(BaseModel):
    """Frozen, strict, and closed: the base of every settings class."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class ComputeSettings(StrictModel):
    """Where and how the numbers are computed; on the CPU equal blocks give equal bits."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    """`auto` takes an accelerator where there is one."""
    threads: int = Field(default=2, ge=1, le=256)
    """CPU threads of one process; two busy threads on two cores can be slower than one."""


class BaseSettings(StrictModel):
    """The pretrained text-to-image model and how images are drawn from it."""

    path: str = Field(min_length=1)
    """A folder in diffusers' layout, or a hub name."""
    num_steps: int = Field(default=10, ge=1, le=1000)
    """Denoising steps of the sampler."""
    eta: float = Field(default=1.0, ge=0.0, le=1.0)
    """Stochasticity of DDIM: 0 is deterministic, 1 is ancestral sampling (DDPM)."""
    noise_level: float = Field(default=0.7, ge=0.0, le=10.0)
    """Noise of a flow model's SDE, which has no eta: 0 is the ODE, Flow-GRPO takes 0.7."""
    flow_sde: Literal["flow_grpo", "dance", "cps"] = "flow_grpo"
    """How a flow model's noise is put in: see components/diffusion/flow_sampler.py."""
    guidance_scale: float = Field(default=1.0, ge=1.0, le=50.0)
    """Classifier-free guidance weight, 1 is off; a consistency model is told it instead."""
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Images denoised together."""

    def without_sde(self) -> BaseSettings:
        """As people draw with a flow model: its SDEs are there to give training a likelihood.

        The models of other families draw as before.
        """
        return self.model_copy(update={"noise_level": 0.0})


class PluginSettings(StrictModel):
    """An object made by a callable that is named by its dotted path."""

    callable: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:callable`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the call."""


class RunSettings(StrictModel):
    """The blocks that every stage shares."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    compute: ComputeSettings = ComputeSettings()
    base: BaseSettings


Model = TypeVar("Model", bound=BaseModel)


def read_params(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, with its line marks kept for error messages.

    Raises:
        SettingsError: the file is missing, not UTF-8, not YAML, has a key twice, or holds no
            mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        content = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError("no such file", file=path) from None
    except UnicodeDecodeError as error:
        raise SettingsError("is not UTF-8", file=path, place=f"byte {error.start}") from None
    except MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"is not YAML: {error.problem}", file=path, place=place) from None
    except YAMLError as error:
        raise SettingsError(f"is not YAML: {error}", file=path) from None
    if not isinstance(content, Mapping):
        raise SettingsError("holds no settings", file=path, allowed="key: value lines")
    return content  # type: ignore[return-value]


def load_run(path: Path) -> RunSettings:
    """The shared blocks of `params.yaml`."""
    content = read_params(path)
    _refuse_unknown_blocks(content, path)
    shared = {key: content[key] for key in RunSettings.model_fields if key in content}
    return validate_block(RunSettings, shared, path, content, ())


def load_block(path: Path, name: str, model: type[Model]) -> Model:
    """One stage's block of `params.yaml` as the room's own model."""
    content = read_params(path)
    _refuse_unknown_blocks(content, path)
    if name not in content:
        raise SettingsError(f"block '{name}' is missing", file=path)
    settings = validate_block(model, content[name], path, content, (name,))
    # A room may refuse a combination of its own block with the shared ones.
    check_with = getattr(settings, "check_with", None)
    if check_with is not None:
        try:
            check_with(load_run(path))
        except SettingsError as error:
            raise SettingsError(str(error), file=path, place=_line(content, (name,))) from None
    return settings


def settings_model(stage: str) -> type[StrictModel]:
    """The settings class that a room owns."""
    return importlib.import_module(f"components.{stage}.settings").Settings


def check(path: Path) -> None:
    """Validate the whole file, every block with its own room's model."""
    load_run(path)
    for stage in STAGES:
        load_block(path, stage, settings_model(stage))


def _refuse_unknown_blocks(content: Mapping[str, Any], path: Path) -> None:
    known = [*RunSettings.model_fields, *STAGES]
    for key in content:
        if key not in known:
            raise SettingsError(
                f"unknown block '{key}'{_nearest(str(key), known)}",
                file=path,
                place=_line(content, (key,)),
                allowed=", ".join(known),
            )


def validate_block(
    model: type[Model],
    block: Any,
    path: Path,
    content: Mapping[str, Any] | None = None,
    prefix: tuple[str, ...] = (),
) -> Model:
    """`block` of the file at `path` as `model`.

    Args:
        model: what it must be.
        block: a part of `content`, or all of it where that is None.
        path: for messages.
        content: of the whole file, with its line marks.
        prefix: keys that lead to the block.

    Raises:
        SettingsError: unknown key, wrong type, out of range; with the line.
    """
    content = block if content is None else content
    # Validation goes through json: strict mode then still takes a list for a tuple, as YAML has no
    # tuples.
    try:
        return model.model_validate_json(json.dumps(block))
    except TypeError as error:
        raise SettingsError(str(error), file=path, place=".".join(prefix)) from None
    except ValidationError as error:
        # A misspelt key is also a missing one; the spelling is what a person must mend.
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        location = (*prefix, *first["loc"])
        raise SettingsError(
            f"{'.'.join(map(str, _written(content, location)))}: {_explain(first)}",
            file=path,
            place=_line(content, location),
            allowed=_allowed(model, block, first),
        ) from None


def _explain(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown key"
    if problem["type"] == "missing":
        return "is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    value = json.dumps(problem["input"], default=str)
    return (
        f"{message[0].lower()}{message[1:]}, got {value if len(value) < 80 else value[:77] + '...'}"
    )


def _allowed(model: type[BaseModel], block: Any, problem: Mapping[str, Any]) -> str:
    """The keys to choose from where a key is unknown; other messages say what is allowed."""
    if problem["type"] != "extra_forbidden":
        return ""
    *parents, key = problem["loc"]
    fields = _fields_at(model, parents)
    return f"{', '.join(fields)}{_nearest(str(key), fields)}" if fields else ""


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Field names of the (nested, possibly discriminated) model that `location` leads to."""
    candidates: list[type[BaseModel]] = [model]
    for step in location:
        children: list[type[BaseModel]] = []
        for candidate in candidates:
            field = candidate.model_fields.get(str(step))
            if field is not None:
                children += _models_in(field.annotation)
            elif step in _tags(candidate):
                # Inside a discriminated union pydantic's location holds the tag, not a key.
                children.append(candidate)
        candidates = children or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]


def _tags(model: type[BaseModel]) -> set[Any]:
    return {
        field.default for field in model.model_fields.values() if isinstance(field.default, str)
    }


def _nearest(key: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, choices, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _written(content: Any, location: Sequence[str | int]) -> list[str | int]:
    """`location` without pydantic's union tags: only what stands in the file, and the last."""
    written: list[str | int] = []
    here = content
    for position, step in enumerate(location):
        inside = (isinstance(here, Mapping) and step in here) or (
            isinstance(here, Sequence) and isinstance(step, int) and step < len(here)
        )
        if inside:
            written.append(step)
            here = here[step]
        elif position == len(location) - 1:
            written.append(step)
    return written


def _line(content: Any, location: Sequence[str | int]) -> str:
    """`line N` of the deepest part of `location` that stands in the file."""
    here, line = content, None
    for step in _written(content, location):
        marks = getattr(here, "lc", None)
        try:
            line = (marks.key(step) if isinstance(here, Mapping) else marks.item(step))[0]  # type: ignore[union-attr]
            here = here[step]
        except (KeyError, IndexError, AttributeError, TypeError):
            break
    return f"line {line + 1}" if line is not None else ""
