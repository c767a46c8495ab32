"""Every claim of the paper's figures 6, 7, 11 and 12, and the condition under which it holds.

Rates and accuracies are percent. A claim is compared with the mean over seeds:
"defends" = attack success at most 5 points above that of FedAvg without an attack, on samples with the trigger;
"fails" = at least 90; a number = within 10 points of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

DEFENDS, FAILS, NEAR = 5.0, 90.0, 10.0
FOOLSGOLD = ("foolsgold", "foolsgold, no memory", "foolsgold, fixed roles")
RFLBAT = ("rflbat", "rflbat, 2 clusters")


class Stat(NamedTuple):
    """Mean and sample standard deviation over seeds (NaN for one), percent, and the number of seeds."""

    mean: float
    spread: float
    seeds: int


Measured = dict[tuple[str, float, str, str], Stat]
"""(partition, malicious share or alpha, defense label, metric) -> value over seeds."""

Comparison = tuple[str, str, Callable[[], tuple[str, bool]]]
"""Figure, claim, and a function that returns our numbers and whether they agree; KeyError if a run is missing."""


@dataclass(frozen=True)
class Claim:
    """One statement of the paper that is compared with one of our numbers.

    Args:
        figure: number of the figure.
        partition: "iid" or "dirichlet".
        setting: share of malicious clients (figures 6 and 7) or alpha (figure 11).
        defense: label of the defense.
        metric: "attack_success_rate" or "accuracy".
        paper: the paper's statement, as the table prints it.
        number: the paper's number in percent, if it gives one.
        holds: whether a measured mean agrees.
        above_clean: ``holds`` takes the rate minus that of FedAvg without an attack.
    """

    figure: int
    partition: str
    setting: float
    defense: str
    metric: str
    paper: str
    number: float | None
    holds: Callable[[float], bool]
    above_clean: bool = False


def defends(figure: int, partition: str, setting: float, defense: str, number: float | None = None) -> Claim:
    """Claim that a defense keeps attack success low."""
    paper = "defends" if number is None else f"about {number:g} (defends)"
    metric = "attack_success_rate"
    return Claim(figure, partition, setting, defense, metric, paper, number, lambda x: x <= DEFENDS, above_clean=True)


def fails(figure: int, partition: str, setting: float, defense: str) -> Claim:
    """Claim that a defense fails."""
    metric = "attack_success_rate"
    return Claim(figure, partition, setting, defense, metric, "about 100 (fails)", 100.0, lambda x: x >= FAILS)


def near(figure: int, partition: str, setting: float, defense: str, number: float) -> Claim:
    """Claim that a number is reached."""
    metric = "attack_success_rate"
    return Claim(figure, partition, setting, defense, metric, f"{number:g}", number, lambda x: abs(x - number) <= NEAR)


def figure_6() -> list[Claim]:
    """MNIST, IID."""
    low = [defends(6, "iid", 0.1, name) for name in (*FOOLSGOLD, "multikrum", *RFLBAT)]
    low += [near(6, "iid", 0.1, name, 26.0) for name in ("geomed", "rfa")]
    half = [near(6, "iid", 0.5, name, 9.5) for name in FOOLSGOLD]
    half += [fails(6, "iid", 0.5, name) for name in ("multikrum", "geomed", "rfa")]
    half += [defends(6, "iid", 0.5, name) for name in RFLBAT]
    high = [fails(6, "iid", 0.9, name) for name in (*FOOLSGOLD, "multikrum", "geomed", "rfa")]
    high += [defends(6, "iid", 0.9, name, 0.5) for name in RFLBAT]
    return low + half + high


def figure_7() -> list[Claim]:
    """MNIST, non-IID."""
    low = [defends(7, "dirichlet", 0.1, name) for name in ("multikrum", *RFLBAT)]
    low += [near(7, "dirichlet", 0.1, name, 27.5) for name in FOOLSGOLD]
    low += [near(7, "dirichlet", 0.1, "geomed", 68.9), near(7, "dirichlet", 0.1, "rfa", 71.4)]
    rest = []
    for share in (0.5, 0.9):
        rest += [fails(7, "dirichlet", share, name) for name in (*FOOLSGOLD, "multikrum", "geomed", "rfa")]
        rest += [defends(7, "dirichlet", share, name) for name in RFLBAT]
    return low + rest


def figure_11(alphas: tuple[float, ...]) -> list[Claim]:
    """RFLBAT at every alpha."""
    return [defends(11, "dirichlet", alpha, name) for name in RFLBAT for alpha in alphas]


def comparisons(attackers: Measured, non_iid: Measured, spread: dict[float, float]) -> Sequence[Comparison]:
    """List the claims that compare numbers of ours.

    Args:
        attackers: measured values of figures 6 and 7.
        non_iid: measured values of figure 11.
        spread: alpha -> standard deviation of the number of samples of a client, mean over seeds.

    Returns:
        the claims, not evaluated yet.
    """
    others = ("multikrum", "geomed", "rfa", "foolsgold")

    def lowest(partition: str) -> tuple[str, bool]:
        names = (*others, "rflbat")
        worst = min(attackers[partition, share, name, "accuracy"].mean for share in (0.1, 0.5, 0.9) for name in names)
        return f"lowest {worst:.1f}", worst >= 80

    def price() -> tuple[str, bool]:
        ours = attackers["dirichlet", 0.9, "rflbat", "accuracy"].mean
        theirs = [attackers["dirichlet", 0.9, name, "accuracy"].mean for name in others]
        agrees = ours < min(theirs) and min(theirs) - ours <= 5
        return f"{ours:.1f} against {min(theirs):.1f} to {max(theirs):.1f}", agrees

    def over_alpha() -> dict[float, float]:
        return {key[1]: value.mean for key, value in non_iid.items() if key[2:] == ("rflbat", "accuracy")}

    def worst_alpha() -> tuple[str, bool]:
        accuracy = over_alpha()
        alpha = min(accuracy, key=lambda each: accuracy[each])
        return f"worst at alpha {alpha:g}: {accuracy[alpha]:.1f}", alpha == 0.1

    def similar() -> tuple[str, bool]:
        rest = [value for alpha, value in over_alpha().items() if alpha > 0.1]
        return f"{min(rest):.1f} to {max(rest):.1f}", max(rest) - min(rest) <= 5

    def sizes() -> tuple[str, bool]:
        return f"standard deviation {spread[0.1]:.0f} against {spread[2.0]:.0f} samples", spread[0.1] > spread[2.0]

    fine = "all five reach a fine accuracy (read as: at least 80)"
    slightly = "90 %: RFLBAT's accuracy is slightly below the other four's (read as: below each, by at most 5 points)"
    return [
        ("6", fine, lambda: lowest("iid")),
        ("7", fine, lambda: lowest("dirichlet")),
        ("7", slightly, price),
        ("11", "accuracy is worst at alpha 0.1", worst_alpha),
        ("11", "accuracy is similar for every alpha above 0.1 (read as: within 5 points)", similar),
        ("12", "client sizes are more diverse at alpha 0.1 than at 2", sizes),
    ]
