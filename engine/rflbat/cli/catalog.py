"""Names and documentation of everything that can be chosen, for ``rflbat list`` and ``rflbat show``."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rflbat.arguments import lookup
from rflbat.errors import UserError
from rflbat.experiment.config import METHODS, Experiment
from rflbat.experiment.recipes import RECIPES, Recipe
from rflbat.registry import Documentation
from rflbat.trackers.registry import TRACKERS
from rflbat_kernels import dispatch

Row = Mapping[str, Callable[..., Any] | dispatch.OnDemand]


def catalog() -> dict[str, dict[str, str]]:
    """List every registry.

    Returns:
        kind -> name -> one line that describes it.
    """
    methods = {
        f"{setting}s": {name: registry.documentation(name).summary for name in registry.names()}
        for setting, registry in METHODS.items()
    }
    return {
        **methods,
        "recipes": {name: recipe.summary for name, recipe in RECIPES.items()},
        "trackers": {name: row.title for name, row in TRACKERS.items()},
        "kernels": {op: _names(row) for op, row in dispatch.IMPLEMENTATIONS.items()},
    }


def show(name: str) -> str:
    """Return the documentation of a data set, model, attack, defense, recipe, tracker or kernel.

    Args:
        name: a name of any registry, or ``module:function`` of a data set, model, attack or defense.

    Returns:
        text.

    Raises:
        UserError: nothing has this name.

    Example:
        >>> show("krum").splitlines()[0]
        'krum(*, f: int | str | None=None) -> Defense'
    """
    if ":" in name:
        return _of_a_module(name)
    # A recipe may have the name of its data set, and a defense that of a kernel: all pages are shown then.
    pages: dict[str, list[str]] = {}
    for registry in METHODS.values():
        for key in registry.names():
            if key == name:
                pages.setdefault(key, []).append(_page(registry.documentation(key)))
            else:
                pages.setdefault(key, [])
    for key, row in TRACKERS.items():
        text = f"`rflbat run --track {key}` reports every round to it; needs the package {key} (rflbat[track])"
        pages.setdefault(key, []).append(f"{key}: {row.title}\n\n{text}")
    for key, recipe in RECIPES.items():
        pages.setdefault(key, []).append(_recipe_page(key, recipe))
    for key, implementations in dispatch.IMPLEMENTATIONS.items():
        pages.setdefault(key, []).extend([_implementations(implementations)] if key == name else [])
    return "\n\n".join(lookup("name", pages, name))


def _page(documentation: Documentation) -> str:
    return f"{documentation.signature}\n\n{documentation.text}"


def _of_a_module(name: str) -> str:
    """Return the documentation of a function of another package, which must fit one of the kinds."""
    message = ""
    for registry in METHODS.values():
        try:
            registry[name]
        except UserError as error:
            message = message or str(error)
        else:
            return _page(registry.documentation(name))
    raise UserError(message)


def _recipe_page(name: str, recipe: Recipe) -> str:
    defaults = {item.name: item.default for item in dataclasses.fields(Experiment)}
    settings = {**defaults, **recipe.settings}
    lines = [
        f"{key} = {value}"
        for key, value in settings.items()
        if value not in (None, {}) and value is not dataclasses.MISSING
    ]
    lines += [f"rflbat sweep {name} varies {key} = {', '.join(values)}" for key, values in recipe.grid.items()]
    return f"{name}: {recipe.summary}\n\n" + "\n".join(lines)


def _names(row: Row) -> str:
    on_demand = {name: entry for name, entry in row.items() if isinstance(entry, dispatch.OnDemand)}
    return ", ".join(f"{name} ({'/'.join(on_demand[name].devices)})" if name in on_demand else name for name in row)


def _documented(make: Callable[..., Any]) -> str:
    return f"{make.__name__}{inspect.signature(make)}\n\n{inspect.getdoc(make)}"


def _implementations(row: Row) -> str:
    own = {getattr(entry, "func", entry) for entry in row.values() if not isinstance(entry, dispatch.OnDemand)}
    pages = [f"implementations: {_names(row)}", *sorted(_documented(function) for function in own)]
    for name, entry in row.items():
        if isinstance(entry, dispatch.OnDemand):
            needs = f"{name} needs {' and '.join(entry.packages)} ({entry.install})"
            try:
                pages.append(f"{needs}: {_documented(entry.func)}")
            except ImportError as error:
                pages.append(f"{needs}: {error}")
    return "\n\n".join(pages)
