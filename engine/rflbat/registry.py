"""Registries: the members of a kind by name, each a function that is imported when it is first used."""

import ast
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rflbat.errors import UserError, nearest

Factory = TypeVar("Factory", bound=Callable[..., Any])


class Documentation(NamedTuple):
    """Signature and docstring of a function."""

    signature: str
    text: str

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.text.partition("\n")[0]


class Registry(MutableMapping[str, Factory], Generic[Factory]):
    """Functions by name: those of this package, then entry points of installed packages, then ``module:function``.

    A row of this package is the text ``module:function``, and the module is imported when the function is first used,
    so that names and documentation are available at once. Another package registers a function in the entry point
    group of the kind (``rflbat.defenses``, ``rflbat.attacks``, ``rflbat.models``, ``rflbat.datasets``);
    ``module:function`` needs no registration. A function of another package must be annotated with what it returns, so
    that a name in a stored configuration cannot call anything else. Iteration yields the names of this package alone.

    Args:
        kind: what the functions make, for messages ("defense").
        group: entry point group.
        returns: ``module:class`` that a function of another package must be annotated to return.
        rows: the functions of this package, name -> ``module:function``.

    Example:
        >>> shapes = Registry("shape", "rflbat.shapes", "pathlib:Path", {"file": "rflbat.errors:nearest"})
        >>> shapes["file"].__name__, list(shapes)
        ('nearest', ['file'])
        >>> shapes["os:getcwd"]
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: shape 'os:getcwd': the function must be annotated to return Path; it ...
    """

    def __init__(self, kind: str, group: str, returns: str, rows: Mapping[str, str]) -> None:
        self.kind, self.group, self.returns = kind, group, returns
        self._rows: dict[str, str | Factory] = {**rows}

    def __getitem__(self, name: str) -> Factory:
        """Return a function, imported.

        Raises:
            KeyError: there is no function of this name.
            UserError: it cannot be imported, or is not annotated to return the right type.
        """
        if name in self._rows:
            row = self._rows[name]
            found: Factory = _attribute(row) if isinstance(row, str) else row
            return found
        return self._adopted(name)

    def __setitem__(self, name: str, factory: Factory) -> None:
        self._rows[name] = factory

    def __delitem__(self, name: str) -> None:
        del self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def names(self) -> list[str]:
        """Names of this package, then those of installed packages."""
        return list(dict.fromkeys((*self, *(point.name for point in entry_points(group=self.group)))))

    def documentation(self, name: str) -> Documentation:
        """Read the signature and the docstring of a function from its source, without importing its module.

        Args:
            name: a name of ``names``, or ``module:function``.

        Returns:
            as they stand in the source; of a function that its module itself imports, as the imported function has
            them.

        Raises:
            KeyError: there is no function of this name.
            UserError: it cannot be imported.

        Example:
            >>> Registry("hint", "rflbat.hints", "builtins:str", {"nearest": "rflbat.errors:nearest"}).documentation(
            ...     "nearest"
            ... ).signature
            'nearest(name: str, options: Iterable[str]) -> str'
        """
        row = self._rows.get(name)
        if row is None:
            point = self._entry_point(name)
            row = name if point is None else point.value
        found = documented(row, _shown(name)) if isinstance(row, str) else None
        if found is not None:
            return found
        factory = self[name]
        return Documentation(f"{_shown(name)}{inspect.signature(factory)}", inspect.getdoc(factory) or "")

    def _adopted(self, name: str) -> Factory:
        """Import a function of another package, and check the type that it returns."""
        make, wanted = self._load(name), _attribute(self.returns)
        returned = _returned(make)
        if not (isinstance(returned, type) and issubclass(returned, wanted)):
            said = "it has no such annotation" if returned is None else f"it returns {returned}"
            raise UserError(f"{self.kind} {name!r}: the function must be annotated to return {wanted.__name__}; {said}")
        found: Factory = make
        return found

    def _entry_point(self, name: str) -> EntryPoint | None:
        return next(iter(entry_points(group=self.group, name=name)), None)

    def _load(self, name: str) -> Any:
        point = self._entry_point(name)
        if point is not None:
            try:
                return point.load()
            except (ImportError, AttributeError) as error:
                raise UserError(f"{self.kind} {name!r} of an installed package cannot be loaded: {error}") from error
        module_name, colon, function = name.partition(":")
        if not (colon and module_name and function):
            raise KeyError(name)
        try:
            module = import_module(module_name)
        except ImportError as error:
            raise UserError(f"{self.kind} {name!r}: module {module_name!r} cannot be imported: {error}") from error
        if not hasattr(module, function):
            close = nearest(function, [each for each in vars(module) if not each.startswith("_")])
            raise UserError(f"{self.kind} {name!r}: module {module_name!r} has no {function!r}{close}")
        return getattr(module, function)


def _shown(name: str) -> str:
    """Return the name that a signature begins with."""
    return name.rpartition(":")[2]


def _attribute(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def documented(reference: str, name: str | None = None) -> Documentation | None:
    """Read the signature and the docstring of a function from the source of its module, without importing anything.

    Args:
        reference: ``module:function``.
        name: name that the signature begins with; default the function's.

    Returns:
        as they stand in the source; None if there is no source, or the module does not define the function.

    Example:
        >>> documented("rflbat.errors:nearest").signature
        'nearest(name: str, options: Iterable[str]) -> str'
    """
    module, _, function = reference.partition(":")
    source = _module_source(module)
    for node in [] if source is None else source.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
            signature = f"{name or function}({ast.unparse(node.args)}){returns}"
            return Documentation(signature, ast.get_docstring(node) or "")
    return None


@cache
def _module_source(module: str) -> ast.Module | None:
    """Parse the source of a module; None if there is no source file. Parent packages are not imported."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = [Path(place).joinpath(*rest) for place in spec.submodule_search_locations or []]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    if not rest:
        files = [Path(spec.origin or "")]
    path = next((file for file in files if file.suffix == ".py" and file.is_file()), None)
    return None if path is None else ast.parse(path.read_text(encoding="utf-8"))


def _returned(make: Any) -> Any:
    """Return the annotated return type of a function; None if it has none."""
    try:
        return typing.get_type_hints(make).get("return")
    except (TypeError, NameError):
        return None
