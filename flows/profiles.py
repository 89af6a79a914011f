"""Profiles: named sets of values for `params.yaml`, in `profiles/<name>.yaml`.

`profiles/methods/<method>.yaml` holds the settings of one method on the miniature world. A profile
holds only the keys that it changes; a block `method` with a name takes the place of the old one.
Applying one writes `params.yaml` itself, comments kept, because that file is what DVC watches and
what a reviewer reads: there is no hidden second source.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from components.contracts.artifacts import write_text
from components.contracts.errors import SettingsError
from components.contracts.settings import BaseSettings, check, read_params


def profile_names(root: Path) -> list[str]:
    """The profiles that this project has."""
    folder = root / "profiles"
    found = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
    return sorted((path.as_posix() for path in found), key=lambda name: (name.count("/"), name))


def apply_profile(root: Path, name: str) -> list[str]:
    """Write the values of a profile into `params.yaml`; returns `key: old -> new` of each change.

    Raises:
        SettingsError: no such profile, a key that `params.yaml` does not have, or a value that is
            out of range; `params.yaml` is then untouched.
    """
    names = profile_names(root)
    if name not in names:
        raise SettingsError(f"no profile '{name}'", allowed=", ".join(names))
    source, target = root / "profiles" / f"{name}.yaml", root / "params.yaml"
    read_params(target)  # for its errors; this one also keeps quotes
    params = params_yaml().load(target.read_text(encoding="utf-8"))
    changed = _overlay(params, read_params(source), source, ())
    if changed:
        text = io.StringIO()
        params_yaml().dump(params, text)
        _check_text(root, text.getvalue())
        write_text(target, text.getvalue())
    return changed


def _overlay(
    params: Any, values: Mapping[str, Any], source: Path, parents: tuple[str, ...]
) -> list[str]:
    changed = []
    for key, value in values.items():
        name = ".".join((*parents, key))
        if key not in params and not (parents == ("base",) and key in BaseSettings.model_fields):
            raise SettingsError(
                f"{name}: not in params.yaml", file=source, allowed=", ".join(params)
            )
        if key == "method" and "name" in value:
            if params[key] != value:
                changed.append(f"{name}: {params[key]['name']} -> {value['name']}")
                params[key] = value
        elif isinstance(value, Mapping):
            changed += _overlay(params[key], value, source, (*parents, key))
        elif params.get(key) != value:
            changed.append(f"{name}: {params.get(key)} -> {value}")
            params[key] = value
    return changed


def _check_text(root: Path, text: str) -> None:
    trial = root / ".work" / "params.yaml"
    write_text(trial, text)
    check(trial)
    trial.unlink()


class _Representer(RoundTripRepresenter):
    """Writes a null as `null`, as the shipped file does, where ruamel would leave the value out."""

    def represent_none(self, data: None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def params_yaml() -> YAML:
    """A reader and writer that leaves comments, quotes and layout of `params.yaml` as they are."""
    yaml = YAML(typ="rt")
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml
