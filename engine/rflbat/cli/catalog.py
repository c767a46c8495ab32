"""What there is to choose from, for ``rflbat list`` and ``rflbat show``."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rflbat.arguments import lookup
from rflbat.attacks.registry import ATTACKS
from rflbat.data.registry import DATASETS
from rflbat.defenses.registry import DEFENSES
from rflbat.errors import UserError
from rflbat.experiment.recipes import GRIDS, RECIPES
from rflbat.models.registry import MODELS
from rflbat.trackers.registry import TRACKERS
from rflbat_kernels import dispatch

Row = Mapping[str, Callable[..., Any] | dispatch.OnDemand]


def _first_line(make: Callable[..., Any]) -> str:
    return (inspect.getdoc(make) or "").partition("\n")[0]


def catalog() -> dict[str, dict[str, str]]:
    """List every registry.

    Returns:
        kind -> name -> one line that says what it is.
    """
    return {
        "datasets": {name: DATASETS[name].summary for name in DATASETS.names()},
        "models": {name: _first_line(MODELS[name]) for name in MODELS.names()},
        "attacks": {name: _first_line(ATTACKS[name]) for name in ATTACKS.names()},
        "defenses": {name: _first_line(DEFENSES[name].make) for name in DEFENSES.names()},
        "recipes": {name: _first_line(make) for name, make in RECIPES.items()},
        "trackers": {name: row.title for name, row in TRACKERS.items()},
        "kernels": {op: _names(row) for op, row in dispatch.IMPLEMENTATIONS.items()},
    }


def _documented(make: Callable[..., Any]) -> str:
    return f"{make.__name__}{inspect.signature(make)}\n\n{inspect.getdoc(make)}"


def show(name: str) -> str:
    """Give the whole page of a data set, model, attack, defense, recipe or kernel: its docstring.

    Args:
        name: a name of any registry.

    Returns:
        text.

    Raises:
        UserError: nothing has this name.

    Example:
        >>> show("krum").splitlines()[0]
        'krum(*, f: int | str | None = None) -> rflbat.defenses.base.Defense'
    """
    kernels = {key: _implementations(row) for key, row in dispatch.IMPLEMENTATIONS.items()}
    recipes = {
        key: f"{_documented(make)}\n\n{_settings(make().to_dict())}{_grid(key)}" for key, make in RECIPES.items()
    }
    pages: Mapping[str, str] = {
        **{key: f"{key}: {DATASETS[key].summary}\n\n{DATASETS[key].where}" for key in DATASETS.names()},
        **{key: f"{key}: {row.title}\n\n{_tracker(key)}" for key, row in TRACKERS.items()},
        **{key: _documented(MODELS[key]) for key in MODELS.names()},
        **{key: _documented(ATTACKS[key]) for key in ATTACKS.names()},
        **{key: _documented(DEFENSES[key].make) for key in DEFENSES.names()},
    }
    if ":" in name:
        return _of_a_module(name)
    # A recipe may bear the name of its data set, a defense that of a kernel: both pages are shown then.
    books = (pages, recipes, kernels)
    merged = {key: "\n\n".join(book[key] for book in books if key in book) for key in {**pages, **recipes, **kernels}}
    return lookup("name", merged, name)


def _of_a_module(name: str) -> str:
    """Give the page of a defense, attack or model that a module of another package holds."""
    said = ""
    for table in (DEFENSES, ATTACKS, MODELS):
        try:
            row: Any = table[name]
            return _documented(getattr(row, "make", row))
        except UserError as error:
            said = said or str(error)
    raise UserError(said)


def _tracker(name: str) -> str:
    return f"`rflbat run --track {name}` tells it of every round; needs the package {name} (rflbat[track])"


def _names(row: Row) -> str:
    on_demand = {name: entry for name, entry in row.items() if isinstance(entry, dispatch.OnDemand)}
    return ", ".join(f"{name} ({'/'.join(on_demand[name].devices)})" if name in on_demand else name for name in row)


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


def _grid(recipe: str) -> str:
    grid = GRIDS.get(recipe, {})
    return "".join(f"\nrflbat sweep {recipe} varies {key} = {', '.join(values)}" for key, values in grid.items())


def _settings(config: Mapping[str, object]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in config.items() if value not in (None, {}))
