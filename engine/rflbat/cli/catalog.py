"""Names and documentation of everything that can be chosen, for ``rflbat list`` and ``rflbat show``."""

import dataclasses
import sys
from collections.abc import Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from rflbat.arguments import lookup
from rflbat.data.registry import AUGMENTATIONS
from rflbat.errors import UserError
from rflbat.experiment.config import METHODS, Experiment
from rflbat.experiment.recipes import RECIPES, Recipe
from rflbat.registry import Documentation, Registry, documented
from rflbat.trackers.registry import TRACKERS
from rflbat.transforms.registry import TRANSFORMS


def catalog() -> dict[str, dict[str, str]]:
    """List every registry.

    Returns:
        kind -> name -> one line that describes it.
    """
    methods = {
        f"{setting}s": {name: registry.documentation(name).summary for name in registry.names()}
        for setting, registry in _registries().items()
    }
    return {
        **methods,
        "recipes": {name: recipe.summary for name, recipe in RECIPES.items()},
        "trackers": {name: row.title for name, row in TRACKERS.items()},
        "kernels": {op: _names(row) for op, row in _kernels().items()},
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
    for registry in _registries().values():
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
    for key, implementations in _kernels().items():
        pages.setdefault(key, []).extend([_kernel_page(implementations)] if key == name else [])
    return "\n\n".join(lookup("name", pages, name))


def _registries() -> dict[str, Registry[Any]]:
    """List every registry of methods once, under the first setting that names one of its members."""
    first = {registry.kind: setting for setting, registry in reversed(METHODS.items())}
    named = {setting: registry for setting, registry in METHODS.items() if first[registry.kind] == setting}
    return {**named, "transform": TRANSFORMS, "augmentation": AUGMENTATIONS}


def _page(documentation: Documentation) -> str:
    return f"{documentation.signature}\n\n{documentation.text}"


def _of_a_module(name: str) -> str:
    """Return the documentation of a function of another package, which must fit one of the kinds."""
    message = ""
    for registry in _registries().values():
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


def _kernels() -> dict[str, dict[str, Any]]:
    """Load the table of kernels without its package, which imports torch."""
    package = find_spec("rflbat_kernels")
    if package is None or not package.submodule_search_locations:
        raise UserError("the package rflbat_kernels is not installed")
    path = Path(package.submodule_search_locations[0]) / "implementations.py"
    spec = spec_from_file_location("rflbat_kernels_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    table: dict[str, dict[str, Any]] = module.TABLE
    return table


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({'/'.join(entry.devices)})" if entry.devices else name for name, entry in row.items())


def _kernel_page(row: Mapping[str, Any]) -> str:
    pages = [f"implementations: {_names(row)}"]
    for path in dict.fromkeys(entry.path for entry in row.values()):
        own = {name: entry for name, entry in row.items() if entry.path == path}
        needs = [f"needs {' and '.join(entry.packages)} ({entry.install})" for entry in own.values() if entry.packages]
        documentation = documented(path)
        assert documentation is not None
        pages.append(f"{', '.join([*own, *needs])}: {_page(documentation)}")
    return "\n\n".join(pages)
