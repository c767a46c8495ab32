"""How every figure looks: a palette that colour-blind readers can tell apart, one set of sizes, one way to save."""

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

# Blue is the good news (benign, accuracy) and vermillion the bad (malicious, attack) in every figure.
BENIGN = ACCURACY = BLUE
MALICIOUS = ATTACK = VERMILLION

DPI = 200
# Any, since the keys that a matplotlib version knows are part of its types.
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
    """An empty figure of the given size in inches, on the Agg canvas: no window, no pyplot, no global state."""
    # "compressed" is the constrained layout that also minds axes of a fixed shape, such as the square PCA plane.
    figure = Figure(figsize=(width, height), dpi=DPI, layout="compressed")
    FigureCanvasAgg(figure)
    return figure


def percent_axis(axes: Axes, label: str) -> None:
    """Give an axes the vertical scale of a rate: 0 to 100 percent, with room for marks that lie on either end."""
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(label)


def whole_numbers() -> MaxNLocator:
    """Ticks for an axis that counts: whole numbers in steps of 1, 2, 5, 10, 20 and so on, a lone one if need be."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as its suffix says (.png at 200 dots per inch, .pdf), whole or not at all; makes the folder.

    Returns:
        the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Ticks come into being only when a figure is rendered, so the style must hold here as well.
    with replacing(path) as temporary, rc_context(STYLE):
        # A date would make the same figure another file each time.
        undated = {"CreationDate": None} if path.suffix == ".pdf" else {}
        figure.savefig(temporary, format=path.suffix[1:], dpi=DPI, metadata=undated)
    return path
