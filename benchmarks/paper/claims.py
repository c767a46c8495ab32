"""Every claim of the paper's figures 6, 7, 11 and 12, and when we say that it holds.

Rates and accuracies are percent. A claim is read against the mean over seeds:
"defends" = attack success at most 5; "fails" = at least 90; a number = within 10 points of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

DEFENDS, FAILS, NEAR = 5.0, 90.0, 10.0
FOOLSGOLD = ("foolsgold", "foolsgold, no memory", "foolsgold, fixed roles")
RFLBAT = ("rflbat", "rflbat, 2 clusters")

Measured = dict[tuple[str, float, str, str], tuple[float, float]]
"""(partition, malicious share or alpha, defense label, metric) -> mean and standard deviation over seeds, percent."""


@dataclass(frozen=True)
class Claim:
    """One statement of the paper about one number of ours.

    Args:
        figure: number of the figure.
        partition: "iid" or "dirichlet".
        setting: share of malicious clients (figures 6 and 7) or alpha (figure 11).
        defense: label of the defense.
        metric: "attack_success_rate" or "accuracy".
        paper: what the paper says, as the table prints it.
        number: the paper's number in percent, where it gives one.
        holds: whether a measured mean agrees.
    """

    figure: int
    partition: str
    setting: float
    defense: str
    metric: str
    paper: str
    number: float | None
    holds: Callable[[float], bool]


def defends(figure: int, partition: str, setting: float, defense: str, number: float | None = None) -> Claim:
    """Claim that a defense keeps attack success low."""
    paper = "defends" if number is None else f"about {number:g} (defends)"
    return Claim(figure, partition, setting, defense, "attack_success_rate", paper, number, lambda x: x <= DEFENDS)


def fails(figure: int, partition: str, setting: float, defense: str) -> Claim:
    """Claim that a defense fails."""
    metric = "attack_success_rate"
    return Claim(figure, partition, setting, defense, metric, "about 100 (fails)", 100.0, lambda x: x >= FAILS)


def near(figure: int, partition: str, setting: float, defense: str, number: float) -> Claim:
    """Claim of a number."""
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


def comparisons(attackers: Measured, non_iid: Measured, spread: dict[float, float]) -> list[tuple[str, str, str, bool]]:
    """Judge the claims that compare numbers of ours.

    Args:
        attackers: measured values of figures 6 and 7.
        non_iid: measured values of figure 11.
        spread: alpha -> standard deviation of the number of samples of a client, mean over seeds.

    Returns:
        (figure, claim, here, holds).
    """
    others = ("multikrum", "geomed", "rfa", "foolsgold")
    rows = []
    for figure, partition in (("6", "iid"), ("7", "dirichlet")):
        worst = min(
            attackers[partition, share, name, "accuracy"][0]
            for share in (0.1, 0.5, 0.9)
            for name in (*others, "rflbat")
        )
        rows.append(
            (figure, "all five reach a fine accuracy (read as: at least 80)", f"lowest {worst:.1f}", worst >= 80)
        )
    ours = attackers["dirichlet", 0.9, "rflbat", "accuracy"][0]
    theirs = [attackers["dirichlet", 0.9, name, "accuracy"][0] for name in others]
    rows.append(
        (
            "7",
            "90 %: RFLBAT's accuracy is slightly below the other four's (read as: below each, by at most 5 points)",
            f"{ours:.1f} against {min(theirs):.1f} to {max(theirs):.1f}",
            ours < min(theirs) and min(theirs) - ours <= 5,
        )
    )
    accuracy = {key[1]: value[0] for key, value in non_iid.items() if key[2:] == ("rflbat", "accuracy")}
    lowest = min(accuracy, key=lambda alpha: accuracy[alpha])
    rows.append(
        ("11", "accuracy is worst at alpha 0.1", f"worst at alpha {lowest:g}: {accuracy[lowest]:.1f}", lowest == 0.1)
    )
    rest = [value for alpha, value in accuracy.items() if alpha > 0.1]
    band = f"{min(rest):.1f} to {max(rest):.1f}"
    similar = max(rest) - min(rest) <= 5
    rows.append(("11", "accuracy is similar for every alpha above 0.1 (read as: within 5 points)", band, similar))
    rows.append(
        (
            "12",
            "client sizes are more diverse at alpha 0.1 than at 2",
            f"standard deviation {spread[0.1]:.0f} against {spread[2.0]:.0f} samples",
            spread[0.1] > spread[2.0],
        )
    )
    return rows
