import pytest

from rflbat.errors import UserError, nearest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fashion_mnist", "; did you mean 'fashion-mnist'?"),
        ("MNIST", "; did you mean 'mnist'?"),
        ("RFLbat", "; did you mean 'RFLBAT'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_nearest_names_the_closest_option(name: str, expected: str) -> None:
    assert nearest(name, ["digits", "mnist", "fashion-mnist", "RFLBAT"]) == expected


def test_nearest_reads_any_iterable_once_and_copes_with_none() -> None:
    assert nearest("mnits", iter(["mnist"])) == "; did you mean 'mnist'?"
    assert nearest("mnist", []) == ""


def test_user_error_is_a_value_error_with_its_text() -> None:
    with pytest.raises(ValueError, match="alpha is -1"):
        raise UserError("alpha is -1, allowed: greater than 0")
