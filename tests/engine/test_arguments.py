from typing import Any

import pytest

from rflbat.arguments import check_arguments, lookup
from rflbat.errors import UserError

FRUIT = {"apple": 1, "quince": 2}


def make(
    positional: int,
    *,
    count: int = 1,
    ratio: float = 0.5,
    name: str = "x",
    flag: bool = False,
    f: int | str | None = None,
    limit: float | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Stand in for a factory of a registry."""


def nothing() -> None:
    """Stand in for a factory without parameters."""


def test_lookup_finds_a_member():
    assert lookup("fruit", FRUIT, "quince") == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aple", "unknown fruit 'aple'; did you mean 'apple'?; known: apple, quince"),
        ("xyz", "unknown fruit 'xyz'; known: apple, quince"),
        ("", "unknown fruit ''; known: apple, quince"),
    ],
)
def test_lookup_says_what_there_is(name, message):
    with pytest.raises(UserError) as caught:
        lookup("fruit", FRUIT, name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("count", "7", 7),
        ("count", "-3", -3),
        ("count", 7, 7),
        ("ratio", "0.25", 0.25),
        ("ratio", "1e-3", 1e-3),
        ("ratio", "2", 2.0),
        ("ratio", 2, 2.0),
        ("ratio", 0.25, 0.25),
        ("name", "true", "true"),
        ("name", "3", "3"),
        ("name", "", ""),
        ("flag", "true", True),
        ("flag", "False", False),
        ("flag", True, True),
        ("f", "3", 3),
        ("f", "true", "true"),
        ("f", "none", None),
        ("f", "None", None),
        ("f", None, None),
        ("f", 3, 3),
        ("limit", "2", 2.0),
        ("limit", "none", None),
        ("extra", {"a": 1}, {"a": 1}),
        ("extra", {}, {}),
    ],
)
def test_values_are_read_as_the_annotated_type(key, given, value):
    checked = check_arguments("thing", make, {key: given})
    assert checked == {key: value}
    assert type(checked[key]) is type(value)


@pytest.mark.parametrize(
    ("key", "given", "wanted"),
    [
        ("count", "2.5", "int"),
        ("count", "many", "int"),
        ("count", "", "int"),
        ("count", "none", "int"),
        ("count", 2.0, "int"),
        ("count", True, "int"),
        ("count", None, "int"),
        ("ratio", "half", "float"),
        ("ratio", True, "float"),
        ("ratio", None, "float"),
        ("ratio", [0.5], "float"),
        ("name", 3, "str"),
        ("name", None, "str"),
        ("flag", "1", "bool"),
        ("flag", 1, "bool"),
        ("f", 2.5, "int | str | None"),
        ("f", True, "int | str | None"),
        ("limit", "low", "float | None"),
        ("extra", "a=1", "dict[str, typing.Any] | None"),
    ],
)
def test_values_of_another_type_are_refused(key, given, wanted):
    with pytest.raises(UserError) as caught:
        check_arguments("thing", make, {key: given})
    assert str(caught.value) == f"thing: {key}={given!r} is not of type {wanted}"


def test_several_parameters_at_once_and_none():
    assert check_arguments("thing", make, {"count": "2", "flag": "true"}) == {"count": 2, "flag": True}
    assert check_arguments("thing", make, {}) == {}


@pytest.mark.parametrize(
    ("factory", "key", "message"),
    [
        (make, "rato", "thing has no parameter 'rato'; did you mean 'ratio'?; it takes count, ratio, name, flag, f, "),
        (make, "positional", "thing has no parameter 'positional'; it takes count, ratio, name, flag, f, "),
        (nothing, "count", "thing has no parameter 'count'; it takes none"),
    ],
)
def test_only_keyword_parameters_can_be_set(factory, key, message):
    with pytest.raises(UserError) as caught:
        check_arguments("thing", factory, {key: "1"})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
