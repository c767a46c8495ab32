"""Figures of a run and of a sweep, drawn from the records of the run folder.

Each ``draw_*`` function returns a figure, or None if the records contain nothing to draw; ``figure_style.save`` writes
it. Rounds are numbered as in the files, from 0. The PCA plane is in ``pca_figures``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from rflbat.report.figure_style import (
    ACCURACY,
    ATTACK,
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SKY,
    STYLE,
    blank,
    percent_axis,
    whole_numbers,
)
from rflbat.report.tables import SweepRow
from rflbat.report.threats import THREAT

# Light colours are correct decisions, dark ones mistakes; black is the mistake that admits the attack.
FATES: dict[tuple[bool, bool], tuple[str, str]] = {
    (False, True): ("benign, kept", SKY),
    (False, False): ("benign, dropped", BLUE),
    (True, False): ("malicious, dropped", ORANGE),
    (True, True): ("malicious, kept", BLACK),
}


@rc_context(STYLE)
def draw_accuracy_and_attack(rounds: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw accuracy and attack success rate over the rounds.

    Lines connect the evaluated rounds. A dotted line marks the first attacked round if it follows clean rounds; a cross
    at the bottom marks a round in which the defense kept no client.

    Args:
        rounds: records of rounds.jsonl.

    Returns:
        the figure; None if no round was evaluated.

    Example:
        >>> draw_accuracy_and_attack([{"round": 0, "accuracy": None}]) is None
        True
    """
    figure = blank(4.6, 2.9)
    axes = figure.add_subplot()
    for key, label, colour, line, mark in (
        ("accuracy", "Accuracy", ACCURACY, "-", "o"),
        ("attack_success_rate", "Attack success rate", ATTACK, "--", "s"),
    ):
        points = [(record["round"], 100 * record[key]) for record in rounds if record.get(key) is not None]
        if points:
            marker = mark if len(points) <= 30 else ""
            x, y = zip(*points, strict=True)
            axes.plot(x, y, label=label, color=colour, ls=line, marker=marker, ms=4, clip_on=False)
    if not axes.lines:
        return None
    lost = [record["round"] for record in rounds if record.get("nobody_kept")]
    if lost:
        axes.plot(lost, [0] * len(lost), "x", color=GREY, ms=5, label="No client kept", clip_on=False)
    attacked = [record["round"] for record in rounds if record.get("malicious")]
    if attacked and min(attacked) > min(record["round"] for record in rounds):
        axes.axvline(min(attacked), color=GREY, lw=1, ls=":", label="Attack starts")
    percent_axis(axes, "Rate on test data (%)")
    axes.set_xlabel("Round")
    axes.xaxis.set_major_locator(whole_numbers())
    entries = len(axes.get_legend_handles_labels()[0])
    figure.legend(loc="outside upper center", ncols=2 if entries > 3 else entries, handlelength=2.4, columnspacing=1.4)
    return figure


@rc_context(STYLE)
def draw_client_sizes(sizes: Sequence[int]) -> Figure | None:
    """Draw the data size of each client in descending order, and the distribution of sizes (as figure 12 of the paper).

    Args:
        sizes: number of samples of each client.

    Returns:
        the figure; None if there are no clients.

    Example:
        >>> len(draw_client_sizes([10, 30, 20]).axes)
        2
    """
    if not sizes:
        return None
    figure = blank(6.6, 2.6)
    ordered, spread = figure.subplots(1, 2, width_ratios=[3, 2])
    mean = float(np.mean(sizes))
    values = np.sort(np.asarray(sizes))[::-1]
    ordered.stairs(values, np.arange(len(sizes) + 1), fill=True, color=SKY, baseline=0)
    ordered.axhline(mean, color=BLUE, lw=1, ls="--")
    ordered.set(xlabel="Clients, largest first", ylabel="Data size (samples)", xlim=(0, len(sizes)), ylim=(0, None))
    ordered.set_title(f"Clients: {len(sizes):,}, mean {mean:,.0f} samples (dashed)", loc="left")
    edges = np.histogram_bin_edges(values, bins=min(20, max(1, len(np.unique(values)))))
    spread.hist(values, bins=list(edges), color=SKY, edgecolor="white", lw=0.4)
    spread.axvline(mean, color=BLUE, lw=1, ls="--")
    spread.set(xlabel="Data size (samples)", ylabel="Clients")
    for side in (ordered.xaxis, spread.xaxis, spread.yaxis):
        side.set_major_locator(whole_numbers())
    for axes in (ordered, spread):
        axes.grid(axis="x", visible=False)
    return figure


@rc_context(STYLE)
def draw_kept_over_rounds(clients: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw which clients were kept and dropped in every round.

    Each row is a client, white in rounds in which it did not take part. If fewer than half of the clients take part in
    a round, these rows would be too thin; then the participants of each round are stacked instead, ordered by id.

    Args:
        clients: records of clients.jsonl.

    Returns:
        the figure; None if there are no records.

    Example:
        >>> figure = draw_kept_over_rounds([{"round": 0, "client": 4, "malicious": True, "kept": False}])
        >>> figure.axes[0].images[0].get_array().tolist()
        [[3]]
    """
    if not clients:
        return None
    rounds = sorted({record["round"] for record in clients})
    names = sorted({record["client"] for record in clients})
    stacked = 2 * max(Counter(record["round"] for record in clients).values()) < len(names)
    picture = _stacked(clients, rounds[0]) if stacked else _by_client(clients, rounds[0], names)
    figure = blank(6.6, 3.8)
    axes = figure.add_subplot()
    colours = ListedColormap(["white", *(colour for _, colour in FATES.values())])
    extent = (rounds[0] - 0.5, rounds[-1] + 0.5, -0.5, len(picture) - 0.5)
    axes.imshow(picture, cmap=colours, vmin=0, vmax=4, interpolation="nearest", origin="lower", extent=extent)
    axes.set_aspect("auto")
    axes.grid(visible=False)
    axes.set(xlabel="Round", ylabel="Participants, ordered by id" if stacked else "Client")
    axes.xaxis.set_major_locator(whole_numbers())
    axes.yaxis.set_major_locator(whole_numbers())
    if not stacked:
        named = dict(enumerate(map(str, names)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda row, _: named.get(int(row), "")))
    figure.legend(handles=_fate_handles(picture), loc="outside upper center", ncols=2, handlelength=1.2)
    return figure


def _fate(record: Mapping[str, Any]) -> int:
    """Return the number of a client's fate in ``FATES``, from 1; 0 means that the client did not take part."""
    return 1 + list(FATES).index((bool(record["malicious"]), bool(record["kept"])))


def _by_client(clients: Sequence[Mapping[str, Any]], first: int, names: Sequence[int]) -> NDArray[np.int8]:
    rows = {name: row for row, name in enumerate(names)}
    picture = np.zeros((len(names), max(record["round"] for record in clients) - first + 1), dtype=np.int8)
    for record in clients:
        picture[rows[record["client"]], record["round"] - first] = _fate(record)
    return picture


def _stacked(clients: Sequence[Mapping[str, Any]], first: int) -> NDArray[np.int8]:
    columns: dict[int, list[int]] = {}
    for record in sorted(clients, key=lambda record: record["client"]):
        columns.setdefault(record["round"] - first, []).append(_fate(record))
    picture = np.zeros((max(map(len, columns.values())), max(columns) + 1), dtype=np.int8)
    for column, fates in columns.items():
        picture[: len(fates), column] = fates
    return picture


def _fate_handles(picture: NDArray[np.int8]) -> list[Patch]:
    """Return legend entries with the share of the benign, and of the malicious, clients for each fate."""
    counts = np.bincount(picture.ravel(), minlength=5)[1:]
    totals = {False: counts[0] + counts[1], True: counts[2] + counts[3]}
    handles = []
    for count, ((malicious, _), (label, colour)) in zip(counts, FATES.items(), strict=True):
        if totals[malicious]:
            handles.append(Patch(color=colour, label=f"{label} ({100 * count / totals[malicious]:.1f} %)"))
    return handles


@rc_context(STYLE)
def draw_sweep_bars(rows: Sequence[SweepRow], axis: str = "defense") -> Figure | None:
    """Draw bars of accuracy and attack success rate for each defense, one panel per combination of the other settings.

    Bars are means over the seeds, whiskers one standard deviation to either side.

    Args:
        rows: the aggregated sweep; up to about six panels are legible in one figure.
        axis: the setting whose values are drawn side by side; if the defense does not vary, ``grouping`` finds another.

    Returns:
        the figure; None if no row has an accuracy.

    Example:
        >>> row = SweepRow({"defense": "rflbat"}, 1, {"accuracy": 0.9, "attack_success_rate": 0.01}, {})
        >>> len(draw_sweep_bars([row]).axes[0].containers)
        2
    """
    rows = [row for row in rows if row.mean.get("accuracy") is not None]
    if not rows:
        return None
    panels: dict[str, list[SweepRow]] = {}
    for row in rows:
        panels.setdefault(setting_label(row, without=axis), []).append(row)
    groups = list(dict.fromkeys(str(row.settings[axis]) for row in rows))
    figure = blank(max(4.0, 1.4 + 0.85 * len(groups)), 0.6 + 1.9 * len(panels))
    column = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (title, members) in zip(column, panels.items(), strict=True):
        _bars(axes, {str(row.settings[axis]): row for row in members}, groups)
        axes.set_title(title, loc="left")
    column[-1].set_xlabel(axis.capitalize().replace("_", " "))
    entries = {label: bars for axes in column for bars, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=2)
    return figure


def grouping(rows: Sequence[SweepRow]) -> str:
    """Return the setting drawn side by side: the defense if it varies, otherwise the first other setting."""
    settings = list(rows[0].settings)
    if len({row.settings["defense"] for row in rows}) > 1:
        return "defense"
    return next((name for name in settings if name != "defense"), "defense")


def setting_label(row: SweepRow, without: str) -> str:
    """Return one line that names all settings of a row but one, such as ``malicious = 0.5, partition = iid``.

    The threat model is left out, since it follows from the attack.
    """
    shown = {name: value for name, value in row.settings.items() if name != without and name not in THREAT}
    return ", ".join(f"{name} = {value}" for name, value in shown.items())


def _bars(axes: Axes, by_group: Mapping[str, SweepRow], groups: Sequence[str]) -> None:
    for shift, key, label, colour, hatch in (
        (-0.2, "accuracy", "Accuracy", ACCURACY, ""),
        (0.2, "attack_success_rate", "Attack success rate", ATTACK, "////"),
    ):
        shown = [
            (place + shift, 100 * mean, 100 * (by_group[group].sd.get(key) or 0))
            for place, group in enumerate(groups)
            if group in by_group and (mean := by_group[group].mean.get(key)) is not None
        ]
        if not shown:
            continue
        places, heights, spreads = zip(*shown, strict=True)
        whiskers = {"elinewidth": 0.8, "ecolor": "black"}
        bars = axes.bar(
            places, heights, 0.38, yerr=spreads if any(spreads) else None, label=label, color=colour, hatch=hatch,
            edgecolor="white", lw=0, capsize=2, error_kw=whiskers,
        )  # fmt: skip
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.tick_params(axis="x", length=0)
    percent_axis(axes, "Rate on test data (%)")
    axes.set_ylim(0, 115)
    axes.grid(axis="x", visible=False)
