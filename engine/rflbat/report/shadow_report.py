"""What the shadow defenses of a run would have done: a table and a figure from shadows.jsonl."""

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


def by_defense(own: str, rounds: Records, shadows: Records) -> dict[str, list[Mapping[str, Any]]]:
    """Group the records by what the report calls the defense: the run's own first."""
    grouped = {f"{own} (this run)": list(rounds)}
    for record in shadows:
        grouped.setdefault(record["defense"], []).append(record)
    return grouped


def shadow_table(own: str, rounds: Records, shadows: Records) -> Table | None:
    """The run's own defense and those that looked on, over the attacked rounds.

    Detection is the mean over attacked rounds, on the updates of this run. The attack success rate of a shadow is that
    of the global model one step later under its decision, mean over the evaluated attacked rounds: it says what one
    step of that defense does to this run's model, not where a run of its own would end.

    Args:
        own: the run's defense.
        rounds: records of rounds.jsonl.
        shadows: records of shadows.jsonl.

    Returns:
        the table; None where no defense looked on.

    Example:
        >>> shadow_table("krum", [], []) is None
        True
    """
    if not shadows:
        return None
    attacked = {record["round"] for record in rounds if record["malicious"]}
    body = []
    for name, records in by_defense(own, rounds, shadows).items():
        counted = [record for record in records if record["round"] in attacked]
        keys = (*SHOWN, "attack_success_rate")
        body.append((name, *(percent(_mean(counted, key)) for key in keys)))
    columns = ("defense", *(METRICS[key] for key in SHOWN), "Attack success rate, one step later")
    return Table("Shadow defenses, mean over attacked rounds", columns, body)


@rc_context(STYLE)
def draw_shadows(own: str, rounds: Records, shadows: Records) -> Figure | None:
    """Weight of the malicious, and attack success one step later, over the rounds: own defense and shadows.

    Args:
        own: the run's defense.
        rounds: records of rounds.jsonl.
        shadows: records of shadows.jsonl.

    Returns:
        the figure; None where no defense looked on.
    """
    if not shadows:
        return None
    figure = blank(5.6, 4.6)
    panels = figure.subplots(2, 1, sharex=True)
    looks = cycle([(BLUE, "-"), (ORANGE, "--"), (SKY, "-."), (GREY, ":"), (BLUE, ":"), (ORANGE, "-")])
    for number, (name, records) in enumerate(by_defense(own, rounds, shadows).items()):
        colour, line = next(looks) if number else (ATTACK, "-")
        for axes, key in zip(panels, ("malicious_weight", "attack_success_rate"), strict=True):
            points = [(record["round"], 100 * record[key]) for record in records if record.get(key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                marker = "o" if len(points) <= 30 else ""
                axes.plot(x, y, label=name, color=colour, ls=line, marker=marker, ms=3, clip_on=False)
    percent_axis(panels[0], "Weight of the\nmalicious (%)")
    percent_axis(panels[1], "Attack success rate\none step later (%)")
    panels[1].set_xlabel("Round")
    panels[1].xaxis.set_major_locator(whole_numbers())
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)), handlelength=2.4)
    return figure
