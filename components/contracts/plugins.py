"""`package.module:attribute` in a settings file becomes the object that it names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from components.contracts.errors import SettingsError
from components.contracts.protocols import Judge
from components.contracts.settings import PluginSettings


def load_callable(dotted: str) -> Callable[..., Any]:
    """Import what `package.module:attribute` names.

    Raises:
        SettingsError: the form is another, the module cannot be imported, or the attribute is
            missing or cannot be called.
    """
    module_name, _, attribute = dotted.partition(":")
    form = "package.module:callable"
    if not module_name or not attribute:
        raise SettingsError(f"'{dotted}' is no dotted path", allowed=form)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SettingsError(f"'{dotted}' cannot be imported ({error})", allowed=form) from None
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise SettingsError(
            f"'{dotted}': no callable '{attribute}' in {module_name}", allowed=", ".join(names)
        )
    return found


def build_plug(plug: PluginSettings) -> Any:
    """Call what a plug names with the arguments that it gives.

    Raises:
        SettingsError: as `load_callable`, or the callable refuses the arguments.
    """
    make = load_callable(plug.callable)
    try:
        return make(**plug.arguments)
    except TypeError as error:
        raise SettingsError(f"'{plug.callable}' refuses its arguments: {error}") from None


def build_judge(plug: PluginSettings) -> Judge:
    """The held-out judge that the settings name.

    Raises:
        SettingsError: as `build_plug`, or the result lacks what a judge must offer.
    """
    judge: Judge = build_plug(plug)
    needed = ("score", "correct", "error_rate")
    if missing := [name for name in needed if not hasattr(judge, name)]:
        raise SettingsError(
            f"'{plug.callable}' gives a {type(judge).__name__} without {', '.join(missing)}",
            allowed=f"an object with {', '.join(needed)}",
        )
    return judge
