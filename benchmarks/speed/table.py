"""The rows as people read them: in the terminal, and on the page of results."""

import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.measure import Rates, Row, read_csv
from benchmarks.speed.registry import cases
from benchmarks.speed.targets import targets_table
from rflbat.report.tables import Table, to_markdown

MACHINE, PARTS = "machine.csv", "parts.csv"
INTRODUCTION = """# Speed

Written by `python -m benchmarks.speed --page` from the CSV files beside it; the command above each table measures it
anew. Every result is checked before a time of it counts: the last column says against what. Times are medians, with the
20th and the 80th percentile; everybody runs in a process of its own, in turn, and peak memory is that of its processes.
A first call warms up, but for cases of minutes, which are measured once.
The floor is the larger of the operations at the matrix rate and the bytes at the memory rate that the same run
measured, so nothing can be faster. `benchmarks/speed/peers` installs the peers:
`python -m benchmarks.speed.peers.environments`.
"""


def number(value: float | None, unit: str = "") -> str:
    """Write three figures, or a dash.

    Example:
        >>> number(0.123456, " s"), number(12.3456), number(None), number(1234.5)
        ('0.123 s', '12.3', '–', '1,234')
    """
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}{unit}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}{unit}"


def table_of(rows: Sequence[Row], title: str = "") -> Table:
    """Lay out the rows of one case or of several.

    Args:
        rows: at least one.
        title: of the table.
    """
    several = len({row.case for row in rows}) > 1
    columns = ("threads", "median, s", "p20 to p80", "peak, MB", "x floor", "of baseline", "of best peer", "checked")
    body = []
    for row in rows:
        spread = "–" if row.p20 is None else f"{number(row.p20)} to {number(row.p80)}"
        threads = str(row.threads) if row.workers == 1 else f"{row.threads} ({row.workers} workers)"
        peak = None if row.peak_bytes is None else row.peak_bytes / 1e6
        shares = (number(each) for each in (peak, row.over_floor, row.share_of_baseline, row.share_of_best_peer))
        named = (row.case, row.contender) if several else (row.contender,)
        body.append((*named, threads, number(row.median), spread, *shares, row.checked))
    return Table(title, (*(("case",) if several else ()), "contender", *columns), body)


def title_of(row: Row) -> str:
    """Name a case, with its floor.

    Args:
        row: of the case.
    """
    case = cases().get(row.case)
    words = row.case if case is None else f"{row.case}: {case.title}"
    return f"{words}; {row.threads} thread(s), floor {number(row.floor_seconds)} s"


def machine_table(rates: Sequence[Rates]) -> Table:
    """Lay out what the runs measured of the machine."""
    columns = ("cases", "threads", "read, GB/s", "copy, GB/s", "torch, Gop/s", "numpy, Gop/s", "convolution, Gop/s")
    body = []
    for each in rates:
        values = (each.read, each.copy, each.matrix_torch, each.matrix_numpy, each.convolution)
        body.append((each.group, str(each.threads), *(number(value / 1e9) for value in values)))
    return Table("", columns, body)


def parts_table(path: Path) -> Table:
    """Lay out what rounds are made of.

    Args:
        path: the file that ``benchmarks.speed.parts`` wrote.
    """
    with path.open(newline="", encoding="utf-8") as file:
        body = [(row["case"], row["part"], number(float(row["seconds"]))) for row in csv.DictReader(file)]
    return Table("", ("case", "part", "seconds"), body)


def page(results: Path) -> str:
    """Write the page of results from the files of a folder.

    Args:
        results: the folder.

    Returns:
        Markdown.
    """
    rates = read_csv(results / MACHINE, Rates)
    groups = dict.fromkeys(case.group for case in cases().values())
    measured = {group: read_csv(results / f"{group}.csv", Row) for group in groups}
    everything = [row for rows in measured.values() for row in rows]
    parts = [INTRODUCTION, f"## Targets\n{to_markdown(targets_table(everything))}"]
    if (results / PARTS).exists():
        lines = "## Parts\n`python -m benchmarks.speed.parts`, one thread: each part alone, as often as in a round"
        parts.append(f"{lines}.\n\n{to_markdown(parts_table(results / PARTS))}")
    for group, rows in measured.items():
        if not rows:
            parts.append(f"## {group}\nNot measured yet: `python -m benchmarks.speed {group}`.\n")
            continue
        parts.append(f"## {group}\n`python -m benchmarks.speed {group}`\n")
        for name in dict.fromkeys(row.case for row in rows):
            own = [row for row in rows if row.case == name]
            floors = dict.fromkeys((row.threads, row.floor_seconds) for row in own)
            floor = ", ".join(f"{number(seconds)} s with {threads} thread(s)" for threads, seconds in floors)
            heading = cases()[name].title if name in cases() else name
            parts.append(f"**{name}**: {heading}. Floor: {floor}.\n\n{to_markdown(table_of(own))}")
    if rates:
        software = dict.fromkeys((each.processor, each.python, each.torch, each.numpy) for each in rates)
        names = "; ".join(f"{cpu}, Python {python}, torch {torch}, numpy {np}" for cpu, python, torch, np in software)
        parts.append(f"## Machine\n`python -m benchmarks.speed`: {names}.\n\n{to_markdown(machine_table(rates))}")
    return "\n".join(parts)
