"""What there is to choose from, for ``rflbat list`` and ``rflbat show``."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rflbat.attacks.registry import ATTACKS
from rflbat.data.registry import DATASETS
from rflbat.defenses.registry import DEFENSES
from rflbat.models.registry import MODELS
from rflbat.recipes import GRIDS, RECIPES
from rflbat.registry import lookup
from rflbat_kernels import dispatch


def _first_line(make: Callable[..., Any]) -> str:
    return (inspect.getdoc(make) or "").partition("\n")[0]


def catalog() -> dict[str, dict[str, str]]:
    """List every registry.

    Returns:
        kind -> name -> one line that says what it is.
    """
    return {
        "datasets": {name: row.summary for name, row in DATASETS.items()},
        "models": {name: _first_line(make) for name, make in MODELS.items()},
        "attacks": {name: _first_line(make) for name, make in ATTACKS.items()},
        "defenses": {name: _first_line(row.make) for name, row in DEFENSES.items()},
        "recipes": {name: _first_line(make) for name, make in RECIPES.items()},
        "kernels": {op: ", ".join(names) for op, names in dispatch.IMPLEMENTATIONS.items()},
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
        **{key: f"{key}: {row.summary}\n\n{row.where}" for key, row in DATASETS.items()},
        **{key: _documented(make) for key, make in MODELS.items()},
        **{key: _documented(make) for key, make in ATTACKS.items()},
        **{key: _documented(row.make) for key, row in DEFENSES.items()},
    }
    # A recipe may bear the name of its data set, a defense that of a kernel: both pages are shown then.
    books = (pages, recipes, kernels)
    merged = {key: "\n\n".join(book[key] for book in books if key in book) for key in {**pages, **recipes, **kernels}}
    return lookup("name", merged, name)


def _implementations(row: Mapping[str, Callable[..., Any]]) -> str:
    functions = {getattr(function, "func", function) for function in row.values()}
    pages = sorted(_documented(function) for function in functions)
    return "\n\n".join([f"implementations: {', '.join(row)}", *pages])


def _grid(recipe: str) -> str:
    grid = GRIDS.get(recipe, {})
    return "".join(f"\nrflbat sweep {recipe} varies {key} = {', '.join(values)}" for key, values in grid.items())


def _settings(config: Mapping[str, object]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in config.items() if value not in (None, {}))
