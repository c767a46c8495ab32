"""Defenses, attacks, models and data sets of other packages: by an entry point, or as ``module:function``."""

import typing
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from rflbat.errors import UserError, nearest

Member = TypeVar("Member")


class Registry(dict[str, Member], Generic[Member]):
    """Our members by name; any other name is looked for among those of installed packages, then as a module's.

    A package names its members in the entry point group of the kind (``rflbat.defenses``, ``rflbat.attacks``,
    ``rflbat.models``, ``rflbat.datasets``). ``module:function`` needs none: the module is imported from Python's path.
    Whatever is found must be a function that says by its annotation what it returns: so a name in a stored
    configuration cannot call anything else. Our own names come first.

    Args:
        kind: what it holds, for messages ("defense").
        group: entry point group.
        gives: what a function of another package must be annotated to return.
        adopt: makes a row of such a function.
        rows: our members.

    Example:
        >>> numbers = Registry("number", "rflbat.numbers", int, lambda make: make(), {"one": 1})
        >>> numbers["one"], list(numbers.names())
        (1, ['one'])
        >>> numbers["os:getcwd"]
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: number 'os:getcwd': the function must be annotated to return int; it ...
    """

    def __init__(
        self,
        kind: str,
        group: str,
        gives: type,
        adopt: Callable[[Callable[..., Any]], Member],
        rows: Mapping[str, Member],
    ) -> None:
        super().__init__(rows)
        self.kind, self.group, self.gives, self.adopt = kind, group, gives, adopt

    def __missing__(self, name: str) -> Member:
        """Find the member of another package.

        Raises:
            KeyError: nothing bears this name.
            UserError: it cannot be imported, or is no such function.
        """
        make = self._load(name)
        returned = _returned(make)
        if not (isinstance(returned, type) and issubclass(returned, self.gives)):
            said = f"it returns {'nothing that it says' if returned is None else returned}"
            wanted = f"the function must be annotated to return {self.gives.__name__}"
            raise UserError(f"{self.kind} {name!r}: {wanted}; {said}")
        return self.adopt(make)

    def names(self) -> Iterable[str]:
        """Our names, then those of installed packages."""
        return dict.fromkeys((*self, *(point.name for point in entry_points(group=self.group))))

    def _load(self, name: str) -> Any:
        for point in entry_points(group=self.group, name=name):
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


def _returned(make: Any) -> Any:
    """Read what a function is annotated to return; None where it does not say."""
    try:
        return typing.get_type_hints(make).get("return")
    except (TypeError, NameError):
        return None
