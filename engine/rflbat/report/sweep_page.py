"""HTML page of a sweep: bars and curves of its settings, the table, and links to the pages of its runs."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rflbat.report.figure_style import ACCURACY, ATTACK
from rflbat.report.figures import grouping, setting_label
from rflbat.report.page import PAGE, Page, Section, plotly_source, short, write_page
from rflbat.report.run_page import LOOKS, run_page
from rflbat.report.tables import SweepRow, Table, percent, settings_of
from rflbat.report.threats import threat_config
from rflbat.storage.atomic import replacing
from rflbat.storage.run_folder import RunFolder

SHARED = "plotly.min.js"
"""Copy of the plotting library that the pages of the runs share; the sweep's own page inlines it."""
MEASURES = {"accuracy": ("Accuracy", ACCURACY), "attack_success_rate": ("Attack success rate", ATTACK)}


def sweep_page(path: Path, rows: Sequence[SweepRow], table: Table, finished: Sequence[RunFolder]) -> Path:
    """Write the page of a sweep and those of its finished runs.

    Args:
        path: folder of the sweep.
        rows: the aggregated sweep.
        table: the same as a table for display.
        finished: the finished runs.

    Returns:
        the sweep's page; those of the runs are written into their folders.

    Raises:
        UserError: a file of a run is damaged, or plotly is not installed.
    """
    with replacing(path / SHARED) as temporary:
        temporary.write_text(plotly_source(), encoding="utf-8")
    links = []
    for folder in finished:
        run_page(folder, plotly_path=f"../../{SHARED}")
        summary = folder.summary() or {}
        cells = [folder.path.name, *(percent(summary.get(name)) for name in MEASURES)]
        links.append((quote(f"{folder.path.relative_to(path).as_posix()}/{PAGE}"), cells))
    axis = grouping(rows)
    bands = _bands(rows, axis, finished)
    sections = [
        Section("bars", "Last round", "Means over seeds; whiskers: ± one standard deviation."),
        Section("bands", "Over the rounds", "Means over seeds; bands: ± one standard deviation.", controls=True),
        Section("table", "Table", "Mean ± standard deviation over seeds.", plot=False, table=table),
        Section(
            *("runs", "Runs", "Each run has its own page."),
            plot=False,
            links={"columns": ["run", *(label for label, _ in MEASURES.values())], "rows": links},
        ),
    ]
    data = {"bars": _bars(rows, axis), "bands": bands, "settings": list(dict.fromkeys(b["setting"] for b in bands))}
    varied = ", ".join(rows[0].settings)
    page = Page(f"Sweep {path.name}", f"{len(finished)} runs over {varied}", [], sections, data, "sweep.js")
    return write_page(page, path / PAGE)


def _bars(rows: Sequence[SweepRow], axis: str) -> list[dict[str, Any]]:
    settings, groups = [setting_label(row, axis) for row in rows], [str(row.settings[axis]) for row in rows]
    return [
        {
            "name": name,
            "labels": [settings, groups] if any(settings) else groups,
            "mean": [short(row.mean.get(key)) for row in rows],
            "sd": [short(row.sd.get(key)) for row in rows],
            "colour": colour,
        }
        for key, (name, colour) in MEASURES.items()
        if key == "accuracy" or any(row.mean.get(key) is not None for row in rows)
    ]


def _bands(rows: Sequence[SweepRow], axis: str, finished: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Return mean and spread of both measures in every round, one line per row of the table."""
    looks: dict[str, tuple[str, str, str]] = {}
    spare = cycle(LINES)
    members: dict[int, list[list[dict[str, Any]]]] = {}
    for folder in finished:
        found = settings_of(rows, threat_config(folder.run()))
        if found is not None:
            members.setdefault(found, []).append(folder.rounds())
    bands = []
    for number, runs in sorted(members.items()):
        name = str(rows[number].settings[axis])
        colour, dash, symbol = looks.setdefault(name, next(spare))
        rounds = sorted({record["round"] for run in runs for record in run})
        bands.append(
            {
                "setting": setting_label(rows[number], axis),
                "name": name,
                "rounds": rounds,
                "seeds": len(runs),
                **{key: _spread(runs, rounds, key) for key in MEASURES},
                **{"colour": colour, "dash": dash, "symbol": symbol},
            }
        )
    return bands


LINES = (
    *LOOKS,
    ("#009E73", "solid", "triangle-up"),
    ("#CC79A7", "dash", "star"),
    ("#000000", "dot", "hexagon"),
    ("#6E6E6E", "dashdot", "pentagon"),
)
"""Colour of Okabe and Ito, dash and marker of each defense."""


def _spread(runs: Sequence[Sequence[Mapping[str, Any]]], rounds: Sequence[int], key: str) -> dict[str, list[Any]]:
    by_round: dict[int, list[float]] = {number: [] for number in rounds}
    for run in runs:
        for record in run:
            if record.get(key) is not None:
                by_round[record["round"]].append(record[key])
    return {
        "mean": [short(statistics.fmean(by_round[number])) if by_round[number] else None for number in rounds],
        "sd": [short(statistics.stdev(by_round[number])) if len(by_round[number]) > 1 else None for number in rounds],
    }
