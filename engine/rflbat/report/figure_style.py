"""Common style of all figures: a palette for colour-blind readers, font sizes, and one function to save a figure."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rflbat.storage.atomic import replacing

# Okabe and Ito, "Color Universal Design" (2008).
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREY = "#6E6E6E"

# In every figure blue means benign or accuracy, and vermillion malicious or attack.
BENIGN = ACCURACY = BLUE
MALICIOUS = ATTACK = VERMILLION

DPI = 200
# Typed Any, because the accepted keys depend on the matplotlib version.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "hatch.linewidth": 0.6,
    "text.usetex": False,
}


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of the given size in inches, on the Agg canvas: no window, no pyplot, no global state."""
    # The "compressed" layout also handles axes with a fixed aspect, such as the square PCA plane.
    figure = Figure(figsize=(width, height), dpi=DPI, layout="compressed")
    FigureCanvasAgg(figure)
    return figure


def percent_axis(axes: Axes, label: str) -> None:
    """Set the vertical axis to 0 to 100 percent, with a margin for markers at either end."""
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(label)


def whole_numbers() -> MaxNLocator:
    """Return a tick locator for counts: whole numbers in steps of 1, 2, 5, 10, 20 and so on, at least one tick."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of its suffix (.png at 200 dots per inch, or .pdf), atomically; create its folder.

    Returns:
        the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Ticks are created when a figure is rendered, so the style must be active here as well.
    with replacing(path) as temporary, rc_context(STYLE):
        # Without a date, the same figure gives the same file.
        undated = {"CreationDate": None} if path.suffix == ".pdf" else {}
        figure.savefig(temporary, format=path.suffix[1:], dpi=DPI, metadata=undated)
    return path
