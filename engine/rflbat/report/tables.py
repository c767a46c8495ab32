"""Tables of a run and of a sweep: for the terminal (rich), for pages (Markdown), papers (LaTeX) and programs (CSV)."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from rflbat.report.threats import THREAT

# Settings over which a sweep is averaged, or that do not affect the result of a run.
INCIDENTAL = frozenset({"seed", "data_dir", "checkpoint_every"})
METRICS = {
    "accuracy": "Accuracy",
    "accuracy_lost": "Accuracy lost",
    "attack_success_rate": "Attack success rate",
    "attack_success_rate_inclusive": "Attack success rate, inclusive",
    "recall": "Malicious dropped (recall)",
    "false_positive_rate": "Benign dropped (false positives)",
    "precision": "Malicious among the dropped (precision)",
    "malicious_weight": "Weight of malicious clients",
}
TROUBLE = {
    "nonfinite": "Non-finite local updates",
    "rounds_without_anybody": "Rounds in which no client was kept",
    "moves_discarded": "Server updates discarded to keep the model finite",
}
SETTINGS = {
    "dataset": "Data set",
    "partition": "Partition",
    "model": "Model",
    "clients": "Clients",
    "attack": "Attack",
    "malicious": "Malicious",
    "defense": "Defense",
    "seed": "Seed",
}


@dataclass(frozen=True)
class Table:
    """Column headings and rows of text, shared by all output formats."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class SweepRow:
    """One combination of a sweep's settings, aggregated over its seeds.

    Args:
        settings: the defense and every setting that varies in the sweep, with the values of this row.
        seeds: number of finished runs.
        mean: mean of each number of the summaries; None if no run has it.
        sd: sample standard deviation (n - 1); None for fewer than two values.
    """

    settings: Mapping[str, Any]
    seeds: int
    mean: Mapping[str, float | None]
    sd: Mapping[str, float | None]


def closing_table(run: Mapping[str, Any], summary: Mapping[str, Any]) -> Table:
    """Summarise settings and results of a run, one line each.

    Args:
        run: the contents of run.json.
        summary: the contents of summary.json; rates are fractions.

    Returns:
        a table of two columns; lines whose value the run does not have are omitted.

    Example:
        >>> table = closing_table({"config": {"defense": "rflbat"}}, {"accuracy": 0.893, "rounds": 50, "seconds": 20.0})
        >>> table.rows
        [('Defense', 'rflbat'), ('Accuracy', '89.3 %'), ('Rounds', '50'), ('Seconds', '20.0 (2.50 rounds a second)')]
    """
    config = run.get("config", {})
    rows = [(label, _setting(name, config[name])) for name, label in SETTINGS.items() if config.get(name) is not None]
    rows += [(label, str(run[name])) for name, label in THREAT.items() if run.get(name)]
    rows += [(label, percent(summary[name])) for name, label in METRICS.items() if summary.get(name) is not None]
    rows += [(label, str(summary[name])) for name, label in TROUBLE.items() if summary.get(name)]
    rounds, seconds = summary.get("rounds"), summary.get("seconds")
    if rounds is not None:
        rows.append(("Rounds", str(rounds)))
    if seconds is not None:
        speed = f" ({rounds / seconds:.2f} rounds a second)" if rounds and seconds > 0 else ""
        rows.append(("Seconds", f"{seconds:.1f}{speed}"))
    return Table("Result", ("", "value"), rows)


def aggregate(cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[SweepRow]:
    """Compute mean and standard deviation over the seeds for every combination of a sweep's settings.

    Varying settings are found by comparing the configurations. Parameters of a method (entries of a nested dictionary)
    count only if they differ while all other settings are equal: that Krum has a parameter ``f`` and RFLBAT has none
    does not make ``f`` a setting of the sweep.

    Args:
        cells: (config, summary) of each finished run.

    Returns:
        one row per combination, sorted by the settings, the defense last.

    Example:
        >>> cells = [({"defense": "rflbat", "seed": s}, {"accuracy": a}) for s, a in ((0, 0.8), (1, 0.9))]
        >>> [row] = aggregate(cells)
        >>> row.settings, row.seeds, round(row.mean["accuracy"], 3), round(row.sd["accuracy"], 4)
        ({'defense': 'rflbat'}, 2, 0.85, 0.0707)
    """
    flat = [_flatten(config) for config, _ in cells]
    axes = _axes(flat)
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, config in enumerate(flat):
        groups.setdefault(tuple(repr(config.get(axis)) for axis in axes), []).append(index)
    rows = []
    for members in groups.values():
        summaries = [cells[index][1] for index in members]
        values = {name: _numbers(summaries, name) for name in dict.fromkeys(name for s in summaries for name in s)}
        numeric = {name: numbers for name, numbers in values.items() if numbers is not None}
        rows.append(
            SweepRow(
                settings={axis: flat[members[0]].get(axis) for axis in axes},
                seeds=len(members),
                mean={name: statistics.fmean(numbers) if numbers else None for name, numbers in numeric.items()},
                sd={name: statistics.stdev(numbers) if len(numbers) > 1 else None for name, numbers in numeric.items()},
            )
        )
    return sorted(rows, key=lambda row: [_order(row.settings[axis]) for axis in (*axes[1:], axes[0])])


def settings_of(rows: Sequence[SweepRow], config: Mapping[str, Any]) -> int | None:
    """Return the index of the row that a run belongs to, or None.

    Example:
        >>> settings_of([SweepRow({"defense": "krum"}, 1, {}, {})], {"defense": "krum", "seed": 3})
        0
    """
    flat = _flatten(config)
    matching = (
        number
        for number, row in enumerate(rows)
        if all(repr(flat.get(name)) == repr(value) for name, value in row.settings.items())
    )
    return next(matching, None)


def sweep_table(rows: Sequence[SweepRow]) -> Table:
    """Build the table of a sweep for display: rates in percent, mean ± standard deviation over the seeds.

    Example:
        >>> sweep_table([SweepRow({"defense": "rflbat"}, 3, {"accuracy": 0.88}, {"accuracy": 0.004})]).rows
        [('rflbat', '3', '88.0 ± 0.4 %')]
    """
    settings = list(rows[0].settings) if rows else []
    metrics = [name for name in METRICS if any(row.mean.get(name) is not None for row in rows)]
    body = [
        (
            *(str(row.settings[name]) for name in settings),
            str(row.seeds),
            *(percent(row.mean.get(name), row.sd.get(name)) for name in metrics),
        )
        for row in rows
    ]
    columns = (*settings, "seeds", *(METRICS[name] for name in metrics))
    return Table("Sweep, mean ± standard deviation over seeds", columns, body)


def sweep_values(rows: Sequence[SweepRow]) -> Table:
    """Build the table of a sweep for programs: fractions in full precision, with columns ``NAME_mean`` and ``NAME_sd``.

    Example:
        >>> sweep_values([SweepRow({"defense": "rflbat"}, 1, {"accuracy": 0.88}, {"accuracy": None})]).rows
        [('rflbat', '1', '0.88', '')]
    """
    settings = list(rows[0].settings) if rows else []
    metrics = list(dict.fromkeys(name for row in rows for name in row.mean))
    body = [
        (
            *(_raw(row.settings[name]) for name in settings),
            str(row.seeds),
            *(_raw(part.get(name)) for name in metrics for part in (row.mean, row.sd)),
        )
        for row in rows
    ]
    columns = (*settings, "seeds", *(f"{name}_{part}" for name in metrics for part in ("mean", "sd")))
    return Table("Sweep", columns, body)


def to_rich(table: Table, width: int | None = None) -> RichTable:
    """Render a table for a rich console; its text is never interpreted as markup.

    Args:
        table: the table.
        width: width of the terminal in cells. If given, no text in a row is wrapped; instead the last columns that do
            not fit are omitted, but never the first two.

    Returns:
        the rich table, with the columns that fit.
    """
    rich = RichTable(title=Text(table.title), title_justify="left")
    used = 1
    for index, column in enumerate(table.columns):
        words = (cell_len(word) for word in column.split())
        least = max([*words, *(cell_len(row[index]) for row in table.rows)], default=0)
        used += least + 3
        if width is not None and used > width and index > 1:
            break
        rich.add_column(
            Text(column), justify="left" if index == 0 else "right", min_width=None if width is None else least
        )
    for row in table.rows:
        rich.add_row(*(Text(cell) for cell in row[: len(rich.columns)]))
    return rich


def to_markdown(table: Table) -> str:
    """Render a table in Markdown, with a final newline.

    Example:
        >>> print(to_markdown(Table("", ("defense", "accuracy"), [("rflbat", "88.0 %")])), end="")
        | defense | accuracy |
        | --- | ---: |
        | rflbat | 88.0 % |
    """

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"

    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    return line(table.columns) + line(rule) + "".join(line(row) for row in table.rows)


def to_csv(table: Table) -> str:
    """Render a table as comma-separated values (RFC 4180 quoting, LF line ends).

    Example:
        >>> to_csv(Table("", ("a", "b"), [("x,y", "1")]))
        'a,b\\n"x,y",1\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
    return text.getvalue()


LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "—": "---",
        "\n": " ",
    }
)


def to_latex(table: Table) -> str:
    """Render a table as a LaTeX tabular, which needs the package booktabs.

    Example:
        >>> print(to_latex(Table("", ("defense", "accuracy"), [("norm_clipping", "88.0 ± 0.4 %")])), end="")
        \\begin{tabular}{lr}
        \\toprule
        defense & accuracy \\\\
        \\midrule
        norm\\_clipping & 88.0 $\\pm$ 0.4 \\% \\\\
        \\bottomrule
        \\end{tabular}
    """

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\" + "\n"

    columns = "l" + "r" * (len(table.columns) - 1)
    body = "".join(line(row) for row in table.rows)
    head = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(table.columns)}\\midrule\n"
    return f"{head}{body}\\bottomrule\n\\end{{tabular}}\n"


def percent(mean: float | None, sd: float | None = None) -> str:
    """Format a fraction as a percentage with one decimal, with its spread if given; None becomes a dash.

    Example:
        >>> percent(0.8812), percent(0.8812, 0.004), percent(None)
        ('88.1 %', '88.1 ± 0.4 %', '–')
    """
    if mean is None:
        return "–"
    return f"{100 * mean:.1f} %" if sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f} %"


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": setting for inner, setting in value.items()})
        elif name not in INCIDENTAL:
            flat[name] = value
    return flat


def _axes(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for config in flat for name in config if name != "defense"))
    varying = [name for name in names if len({repr(config.get(name)) for config in flat}) > 1]
    plain = ["defense", *(name for name in varying if "." not in name)]

    def own(name: str) -> bool:
        seen: dict[tuple[str, ...], set[str]] = {}
        for config in flat:
            seen.setdefault(tuple(repr(config.get(axis)) for axis in plain), set()).add(repr(config.get(name)))
        return any(len(values) > 1 for values in seen.values())

    return plain + [name for name in varying if "." in name and own(name)]


def _numbers(summaries: Sequence[Mapping[str, Any]], name: str) -> list[float] | None:
    """Return the numbers under a name, without missing ones; None if any other value occurs."""
    values = [summary[name] for summary in summaries if summary.get(name) is not None]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    return [float(value) for value in values]


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _setting(name: str, value: Any) -> str:
    return percent(value) if name == "malicious" else str(value)


def _raw(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
