"""PCA plane of the updates as RFLBAT sees it: the colour shows a client's true role, the marker the defense's decision.

Axes: N clients of the round, H components.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rflbat.report.figure_style import BENIGN, GREY, MALICIOUS, STYLE, blank

Rows = Sequence[Mapping[str, Any]]

# Marker and label of RFLBAT's stages, in order; each stage of another defense gets the next spare marker.
STAGES = {
    "kept": ("o", "kept"),
    "filter1": ("^", "dropped: filter 1"),
    "cluster": ("X", "dropped: cluster"),
    "filter2": ("s", "dropped: filter 2"),
}
SPARE_MARKERS = "DvP<>phd"


@rc_context(STYLE)
def draw_pca_scatter(clients: Rows) -> Figure | None:
    """Draw the updates of one round in the plane of their first two principal components.

    The figure corresponds to figures 3 and 14 of the paper.

    Args:
        clients: records of clients.jsonl of ONE round. Clients without coordinates are counted in the legend.

    Returns:
        the figure; None if no client has coordinates, as with defenses that do not use PCA.

    Example:
        >>> row = {"round": 3, "client": 0, "malicious": False, "stage": "kept", "coordinates": [0.1, -0.2]}
        >>> draw_pca_scatter([row]).axes[0].get_title(loc="left")
        'Round 3'
        >>> draw_pca_scatter([row | {"coordinates": None}]) is None
        True
    """
    return _draw([clients]) if located(clients) else None


@rc_context(STYLE)
def draw_pca_panels(clients: Rows) -> Figure | None:
    """Draw the PCA plane of the first, the middle and the last round with coordinates, side by side.

    Args:
        clients: records of clients.jsonl, of any rounds.

    Returns:
        the figure, with fewer panels if there are fewer rounds; None if no client has coordinates.

    Example:
        >>> row = {"client": 0, "malicious": False, "stage": "kept", "coordinates": [0.1, -0.2]}
        >>> figure = draw_pca_panels([row | {"round": number} for number in range(9)])
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['Round 0', 'Round 4', 'Round 8']
    """
    numbers = sorted({row["round"] for row in located(clients)})
    if not numbers:
        return None
    shown = sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]})
    return _draw([[row for row in clients if row["round"] == number] for number in shown])


def located(clients: Rows) -> list[Mapping[str, Any]]:
    """Return the records that have a position in the plane: two coordinates, of a finite update."""
    return [row for row in clients if row["stage"] != "nonfinite" and None not in (row.get("coordinates") or [None])]


def _draw(panels: Sequence[Rows]) -> Figure:
    every_row = [row for rows in panels for row in rows]
    stages = _stages(located(every_row))
    figure = blank(1.8 + 2.7 * len(panels), 3.0)
    for axes, rows in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _scatter(axes, rows, stages)
        axes.set_title(f"Round {rows[0]['round']}", loc="left")
        axes.set_xlabel("First principal component")
    figure.axes[0].set_ylabel("Second principal component")
    figure.legend(handles=_handles(every_row, stages), loc="outside right upper", alignment="left", handletextpad=0.3)
    return figure


def _stages(rows: Rows) -> dict[str, tuple[str, str]]:
    """Return marker and label of every stage that occurs, in the order of the legend."""
    present = {row["stage"] for row in rows}
    others = sorted(present - STAGES.keys())
    spare = {name: (SPARE_MARKERS[i % len(SPARE_MARKERS)], f"dropped: {name}") for i, name in enumerate(others)}
    return {name: look for name, look in {**STAGES, **spare}.items() if name in present}


def _scatter(axes: Axes, rows: Rows, stages: Mapping[str, tuple[str, str]]) -> None:
    for malicious, colour in ((False, BENIGN), (True, MALICIOUS)):
        for stage, (marker, _) in stages.items():
            group = [row for row in located(rows) if (bool(row["malicious"]), row["stage"]) == (malicious, stage)]
            if group:
                x, y = zip(*(row["coordinates"][:2] for row in group), strict=True)
                axes.scatter(x, y, 26, color=colour, marker=marker, alpha=0.8, edgecolors="white", linewidths=0.4)
    # The filters measure distances in this plane, so both axes have the same scale.
    points_NH = np.array([row["coordinates"][:2] for row in located(rows)])
    low_H, high_H = points_NH.min(0), points_NH.max(0)
    reach = 0.55 * float((high_H - low_H).max()) or 1.0
    middle_H = (low_H + high_H) / 2
    axes.set_xlim(middle_H[0] - reach, middle_H[0] + reach)
    axes.set_ylim(middle_H[1] - reach, middle_H[1] + reach)
    axes.set_box_aspect(1)
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _handles(rows: Rows, stages: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    def handle(marker: str, colour: str, label: str) -> Line2D:
        return Line2D([], [], ls="", marker=marker, color=colour, markeredgecolor="white", mew=0.4, ms=6, label=label)

    handles = [
        handle("o", colour, name)
        for name, colour, truth in (("benign", BENIGN, False), ("malicious", MALICIOUS, True))
        if any(bool(row["malicious"]) is truth for row in located(rows))
    ]
    handles += [handle(marker, GREY, label) for marker, label in stages.values()]
    hidden = len(rows) - len(located(rows))
    if hidden:
        handles.append(handle("", GREY, f"({hidden} not drawn:\nno coordinates)"))
    return handles
