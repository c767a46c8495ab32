"""Verdicts: each claim of the paper compared with our runs, and evidence for claims that do not hold.

A claim is judged on a model that has learned (at least ``LEARNED`` of the accuracy of FedAvg without an attack), or on
one on which the attack succeeds. All other claims are marked as not judged, or not run.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.paper.claims import FAILS, Claim, Comparison
from benchmarks.paper.measured import over_seeds, with_spread
from benchmarks.paper.studies import FIGURE_7_ALPHA
from rflbat.report.tables import Table

LEARNED = 0.8
HOLDS, DIFFERS, NOT_JUDGED, NOT_RUN = "holds", "**does not hold**", "not judged", "not run"
VERDICT = "verdict"

Rows = Sequence[Mapping[str, str]]


class CleanRates(NamedTuple):
    """Accuracy of FedAvg without an attack, and its rate of the target class on triggered samples, percent."""

    accuracy: float
    success: float


Clean = Callable[[str, str, float], CleanRates]
"""Rates of FedAvg without an attack, by data set, partition and alpha; NaN without a run."""


def judge(agrees: bool, accuracy: float, attack: float, clean: float) -> tuple[str, str]:
    """Judge a claim, given the model on which it was measured.

    Args:
        agrees: whether the measured rates agree with the paper's.
        accuracy: accuracy of the model, percent.
        attack: attack success rate, percent.
        clean: accuracy without an attack, percent; NaN if it was not run.

    Returns:
        verdict and reason.

    Example:
        >>> judge(True, 10.0, 0.0, 80.0)
        ('not judged', 'accuracy 10.0 is below 0.8 of the 80.0 without an attack')
        >>> judge(True, 10.0, 100.0, 80.0)
        ('holds', 'on a model below 0.8 of the accuracy without an attack')
    """
    if math.isnan(clean):
        return NOT_JUDGED, "no run without an attack yet"
    if accuracy < LEARNED * clean and attack < FAILS:
        return NOT_JUDGED, f"accuracy {accuracy:.1f} is below {LEARNED:g} of the {clean:.1f} without an attack"
    cost = "on a model below 0.8 of the accuracy without an attack" if accuracy < LEARNED * clean else ""
    return (HOLDS if agrees else DIFFERS), cost


def evidence(rows: Rows, rounds: Rows) -> str:
    """Count how often malicious clients were kept, from the records of the runs.

    Args:
        rows: runs of one case, one for each seed.
        rounds: rounds of the study; empty if the study has no such file.

    Returns:
        one clause, or "" without an attack.
    """
    weights = [float(row["malicious_weight"]) for row in rows if row["malicious_weight"]]
    if not weights:
        return ""
    held = f"malicious clients hold {100 * statistics.fmean(weights):.0f} % of the weight on average"
    own = {row["settings"] for row in rows}
    attacked = [row for row in rounds if row["settings"] in own and int(row["malicious"])]
    if not attacked:
        return held
    kept = [row for row in attacked if int(row["malicious_kept"])]
    last = f", last in round {max(int(row['round']) for row in kept)}" if kept else ""
    return f"{held}; kept in {len(kept)} of {len(attacked)} rounds{last}"


def claims_table(
    claims: Sequence[Claim], rows: Rows, setting: str, clean: Callable[[Claim], CleanRates], rounds: Rows = ()
) -> Table:
    """Compare the paper's claims with our runs: paper, here, verdict and reason.

    Args:
        claims: claims of one figure.
        rows: runs of its study.
        setting: column of the claims' setting: "malicious", "alpha" or "clients".
        clean: rates of FedAvg without an attack in the setting of a claim; NaN if it was not run.
        rounds: rounds of the study.

    Returns:
        the table, one row for each claim.
    """
    measured, body = over_seeds(rows, setting), []
    for claim in claims:
        at = f"{claim.setting:.0%}" if setting == "malicious" else f"{claim.setting:g}"
        key = (claim.partition, claim.setting, claim.defense)
        if (*key, claim.metric) not in measured:
            body.append((claim.defense, at, claim.paper, "", "", "", NOT_RUN, ""))
            continue
        here, accuracy = measured[*key, claim.metric], measured[*key, "accuracy"]
        attack = measured[*key, "attack_success_rate"].mean
        floor = clean(claim)
        value = here.mean - floor.success if claim.above_clean and not math.isnan(floor.success) else here.mean
        verdict, reason = judge(claim.holds(value), accuracy.mean, attack, floor.accuracy)
        if verdict == DIFFERS:
            mine = [row for row in rows if (row["partition"], float(row[setting]), row["defense"]) == key]
            reason = "; ".join(text for text in (reason, evidence(mine, rounds)) if text)
        numbers = (with_spread(here), with_spread(accuracy), str(here.seeds))
        body.append((claim.defense, at, claim.paper, *numbers, verdict, reason))
    columns = (
        "defense",
        setting,
        "paper: attack success, %",
        "here, %",
        "accuracy here, %",
        "seeds",
        VERDICT,
        "reason",
    )
    return Table("", columns, body)


def comparisons_table(claims: Sequence[Comparison]) -> Table:
    """Judge the claims that compare our own numbers; a claim without its runs is marked as not run."""
    body = []
    for figure, claim, read in claims:
        try:
            here, agrees = read()
        except KeyError:
            body.append((figure, claim, "", NOT_RUN))
            continue
        body.append((figure, claim, here, HOLDS if agrees else DIFFERS))
    return Table("", ("figure", "claim", "here", VERDICT), body)


def clean_rates(rows: Rows) -> Clean:
    """Average the rates of FedAvg without an attack by data set and division.

    Args:
        rows: runs of the study ``clean``.

    Returns:
        function of data set, partition and alpha (used only for "dirichlet"): mean rates in percent, NaN without a
        run.
    """
    known: dict[tuple[str, str, float], list[CleanRates]] = {}

    def division(dataset: str, partition: str, alpha: float) -> tuple[str, str, float]:
        return dataset, partition, alpha if partition == "dirichlet" else math.inf

    for row in rows:
        key = division(row["dataset"], row["partition"], float(row["alpha"]))
        own = CleanRates(100 * float(row["accuracy"]), 100 * float(row["attack_success_rate"]))
        known.setdefault(key, []).append(own)
    unknown = [CleanRates(math.nan, math.nan)]

    def rates(dataset: str, partition: str, alpha: float) -> CleanRates:
        runs = known.get(division(dataset, partition, alpha), unknown)
        return CleanRates(*(statistics.fmean(values) for values in zip(*runs, strict=True)))

    return rates


def clean_of(clean: Clean, dataset: str) -> Callable[[Claim], CleanRates]:
    """Find the rates without an attack for a claim.

    Args:
        clean: rates by data set and division.
        dataset: data set of the claim.

    Returns:
        function of a claim. A claim of figure 11 is compared at its own alpha, FEMNIST at its natural partition.
    """

    def rates(claim: Claim) -> CleanRates:
        alpha = claim.setting if claim.figure == 11 else FIGURE_7_ALPHA
        return clean(dataset, "natural" if dataset == "femnist" else claim.partition, alpha)

    return rates


def count(tables: Iterable[Table]) -> str:
    """Count the verdicts of all tables, in one sentence.

    Args:
        tables: any tables; tables without a column of verdicts and rows without a verdict are ignored.

    Returns:
        the sentence.

    Example:
        >>> count([Table("", ("claim", "verdict"), [("a", HOLDS), ("b", NOT_RUN)])])
        'Of 2 claims 1 holds, 0 do not hold, 0 could not be judged and 1 is not run yet.'
    """
    judged = [(table.columns.index(VERDICT), table.rows) for table in tables if VERDICT in table.columns]
    verdicts = [row[column] for column, rows in judged for row in rows if row[column]]
    numbers = [verdicts.count(each) for each in (HOLDS, DIFFERS, NOT_JUDGED, NOT_RUN)]
    words = (
        ("holds", "hold"),
        ("does not hold", "do not hold"),
        ("could not be judged", "could not be judged"),
        ("is not run yet", "are not run yet"),
    )
    parts = [f"{number} {pair[number != 1]}" for number, pair in zip(numbers, words, strict=True)]
    return f"Of {len(verdicts)} claims {', '.join(parts[:3])} and {parts[3]}."
