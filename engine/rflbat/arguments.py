"""Lookup of names, and checks of the parameters of a registry member."""

import contextlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from rflbat.errors import UserError, nearest
from rflbat.registry import Registry

Member = TypeVar("Member")


def lookup(kind: str, table: Mapping[str, Member], name: str) -> Member:
    """Return a member by name; an unknown name is an error that lists the known ones.

    Args:
        kind: kind of the members, for the message ("defense").
        table: the registry.
        name: the wanted name.

    Returns:
        the member.

    Raises:
        UserError: no member has this name; the message contains the nearest one. A ``Registry`` also searches other
            packages.

    Example:
        >>> lookup("fruit", {"apple": 1}, "apple")
        1
    """
    if isinstance(name, str):
        with contextlib.suppress(KeyError):
            return table[name]
    known = list(table.names() if isinstance(table, Registry) else table)
    raise UserError(f"unknown {kind} {name!r}{nearest(str(name), known)}; known: {', '.join(known)}")


def _convert(value: object, annotation: object) -> object:
    """Read ``value`` (often text from the command line) as one of the types of ``annotation``."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if not isinstance(value, str):
        accepted = tuple(typing.get_origin(kind) or kind for kind in kinds)
        if isinstance(value, accepted) and (bool in accepted or not isinstance(value, bool)):
            return value
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        raise ValueError
    if type(None) in kinds and value.lower() == "none":
        return None
    if bool in kinds and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            with contextlib.suppress(ValueError):
                return _convert(kind(value), annotation)
    if str in kinds:
        return value
    raise ValueError


def check_arguments(owner: str, make: Callable[..., Any], given: Mapping[str, object]) -> dict[str, Any]:
    """Check the parameters given to a registry member against its keyword-only signature, and convert text.

    Args:
        owner: the member, for the message ("defense 'krum'").
        make: its factory; the keyword-only parameters are what a user may set.
        given: name -> value, text allowed for every type.

    Returns:
        name -> value of the annotated type.

    Raises:
        UserError: an unknown or missing parameter, or a value of the wrong type.

    Example:
        >>> def krum(*, f: int | str | None = None): ...
        >>> check_arguments("defense 'krum'", krum, {"f": "3"})
        {'f': 3}
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    allowed = {key: p for key, p in inspect.signature(make).parameters.items() if p.kind is keyword}
    for key, parameter in allowed.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise UserError(f"{owner} needs the parameter {key!r}; it has no default")
    checked = {}
    for key, value in given.items():
        if key not in allowed:
            known = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise UserError(f"{owner} has no parameter {key!r}{nearest(key, allowed)}; {known}")
        annotation = allowed[key].annotation
        try:
            checked[key] = _convert(value, annotation)
        except (ValueError, OverflowError):
            wanted = getattr(annotation, "__name__", str(annotation))
            raise UserError(f"{owner}: {key}={value!r} is not of type {wanted}") from None
    return checked


class Call(NamedTuple):
    """A member with parameters, as it is written on the command line.

    Args:
        label: the text without spaces; tells two calls of one member apart.
        name: of the member.
        arguments: name -> value, as text.
    """

    label: str
    name: str
    arguments: dict[str, str]


def calls(text: str, what: str) -> tuple[Call, ...]:
    """Read ``NAME,NAME(parameter=value,...),...``; the same text twice counts once.

    Args:
        text: as the user wrote it.
        what: the setting, for messages.

    Returns:
        the calls, in the order of the text.

    Raises:
        UserError: parentheses or an argument of another form.

    Example:
        >>> [(call.label, call.arguments) for call in calls("krum, krum(f=10, m=3)", "shadow")]
        [('krum', {}), ('krum(f=10,m=3)', {'f': '10', 'm': '3'})]
    """
    found: dict[str, Call] = {}
    for each in re.findall(r"(?:[^,()]|\([^()]*\)|[()])+", re.sub(r"\s*([,()=])\s*", r"\1", text.strip())):
        parts = re.fullmatch(r"([^()]+)(?:\((.*)\))?", each)
        given = [] if parts is None or not parts[2] else parts[2].split(",")
        pairs = [argument.partition("=") for argument in given]
        if parts is None or not all(key and equals and value for key, equals, value in pairs):
            raise UserError(f"{what}={each!r} is not of the form NAME or NAME(parameter=value,...)")
        arguments = {key: value for key, _, value in pairs}
        if len(arguments) < len(pairs):
            raise UserError(f"{what}={each!r} names a parameter twice")
        label = each.removesuffix("()")
        found[label] = Call(label, parts[1], arguments)
    return tuple(found.values())
