"""Table and figure of a run's shadow defenses, from shadows.jsonl."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from rflbat.report.figure_style import ATTACK, BLUE, GREY, ORANGE, SKY, STYLE, blank, percent_axis, whole_numbers
from rflbat.report.tables import METRICS, Table, percent

Records = Sequence[Mapping[str, Any]]
SHOWN = ("recall", "false_positive_rate", "malicious_weight")


def _mean(records: Records, key: str) -> float | None:
    values = [record[key] for record in records if record.get(key) is not None]
    return statistics.fmean(values) if values else None


def _measure(rounds: Records) -> tuple[str, str]:
    """Return key and name of the rate by which the attack is judged; an untargeted attack has no success rate."""
    measured = [record for record in rounds if record.get("accuracy") is not None]
    if measured and all(record.get("attack_success_rate") is None for record in measured):
        return "accuracy", "Accuracy"
    return "attack_success_rate", "Attack success rate"


def by_defense(own: str, rounds: Records, shadows: Records) -> dict[str, list[Mapping[str, Any]]]:
    """Group the records by the defense's name in the report, the run's own defense first."""
    grouped = {f"{own} (this run)": list(rounds)}
    for record in shadows:
        grouped.setdefault(record["defense"], []).append(record)
    return grouped


def shadow_table(own: str, rounds: Records, shadows: Records) -> Table | None:
    """Compare the run's own defense with its shadows over the attacked rounds.

    Detection rates are means over the attacked rounds, on the updates of this run. The attack success rate of a shadow
    is that of the global model after one server update by its decision, averaged over the evaluated attacked rounds. It
    shows the effect of one step of that defense on this run's model, not the result of a run with that defense. For an
    untargeted attack, the accuracy is shown instead.

    Args:
        own: defense of the run.
        rounds: records of rounds.jsonl.
        shadows: records of shadows.jsonl.

    Returns:
        the table; None if the run has no shadows.

    Example:
        >>> shadow_table("krum", [], []) is None
        True
    """
    if not shadows:
        return None
    attacked = {record["round"] for record in rounds if record["malicious"]}
    judged_by, label = _measure(rounds)
    body = []
    for name, records in by_defense(own, rounds, shadows).items():
        counted = [record for record in records if record["round"] in attacked]
        keys = (*SHOWN, judged_by)
        body.append((name, *(percent(_mean(counted, key)) for key in keys)))
    columns = ("defense", *(METRICS[key] for key in SHOWN), f"{label} after one update")
    return Table("Shadow defenses, mean over attacked rounds", columns, body)


@rc_context(STYLE)
def draw_shadows(own: str, rounds: Records, shadows: Records) -> Figure | None:
    """Draw the run's own defense and its shadows over the rounds.

    The panels show the weight of malicious clients and, after one update, the attack success rate, or the accuracy if
    the attack is untargeted.

    Args:
        own: defense of the run.
        rounds: records of rounds.jsonl.
        shadows: records of shadows.jsonl.

    Returns:
        the figure; None if the run has no shadows.
    """
    if not shadows:
        return None
    judged_by, label = _measure(rounds)
    figure = blank(5.6, 4.6)
    panels = figure.subplots(2, 1, sharex=True)
    looks = cycle([(BLUE, "-"), (ORANGE, "--"), (SKY, "-."), (GREY, ":"), (BLUE, ":"), (ORANGE, "-")])
    for number, (name, records) in enumerate(by_defense(own, rounds, shadows).items()):
        colour, line = next(looks) if number else (ATTACK, "-")
        for axes, key in zip(panels, ("malicious_weight", judged_by), strict=True):
            points = [(record["round"], 100 * record[key]) for record in records if record.get(key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                marker = "o" if len(points) <= 30 else ""
                axes.plot(x, y, label=name, color=colour, ls=line, marker=marker, ms=3, clip_on=False)
    percent_axis(panels[0], "Weight of\nmalicious clients (%)")
    percent_axis(panels[1], f"{label}\nafter one update (%)")
    panels[1].set_xlabel("Round")
    panels[1].xaxis.set_major_locator(whole_numbers())
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)), handlelength=2.4)
    return figure
