"""One HTML page from data: the template, its scripts and the plotting library inlined, so that it needs no network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rflbat.errors import UserError
from rflbat.report.figure_style import BENIGN, GREY, MALICIOUS
from rflbat.report.figures import FATES
from rflbat.report.tables import Table
from rflbat.storage.atomic import replacing, to_json

PAGE = "report.html"
NEEDS = "the page needs plotly and jinja2: pip install 'rflbat[report]'"
LOOK = {
    "benign": BENIGN,
    "malicious": MALICIOUS,
    "grey": GREY,
    "fates": [[label, colour] for label, colour in FATES.values()],
}
"""What the scripts colour with: the palette of the figures."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        id: the scripts fill ``ID-plot``, ``ID-controls``, ``ID-status`` and ``ID-legend``.
        title: heading.
        note: one sentence that says how to read it.
        plot: a place for a plot.
        controls: a place for controls and a line that says what they show.
        legend: a place for a legend.
        table: a table.
        links: columns, and rows of (address of the first cell, cells).
    """

    id: str
    title: str
    note: str
    plot: bool = True
    controls: bool = False
    legend: bool = False
    table: Table | None = None
    links: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Page:
    """A page before it is written.

    Args:
        title: heading of the page.
        subtitle: one line below it.
        tiles: name and value of the numbers on top.
        sections: from top to bottom.
        data: what the scripts draw.
        script: "run.js" or "sweep.js".
    """

    title: str
    subtitle: str
    tiles: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    data: Mapping[str, Any] = field(repr=False)
    script: str


def available() -> bool:
    """Say whether the packages that a page is made with are here; they come with ``rflbat[report]``."""
    return all(find_spec(name) for name in ("plotly", "jinja2"))


def plotly_source() -> str:
    """Give plotly.js as the package ships it.

    Raises:
        UserError: the package is not here.
    """
    if not available():
        raise UserError(NEEDS)
    return files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")


def write_page(page: Page, path: Path, plotly_path: str = "") -> Path:
    """Write a page, whole or not at all.

    Args:
        page: what it holds.
        path: the HTML file.
        plotly_path: address of plotly.js, relative to the page; "" puts all of it into the page.

    Returns:
        the path.

    Raises:
        UserError: plotly or jinja2 is not here.
    """
    plotly = "" if plotly_path else plotly_source()
    from jinja2 import Environment

    web = files("rflbat.report").joinpath("web")

    def source(name: str) -> str:
        return web.joinpath(name).read_text(encoding="utf-8")

    # A "<" in the data could end its element; JSON may write it as an escape.
    data = to_json({**page.data, "look": LOOK}).replace("<", "\\u003c")
    text = Environment(autoescape=True).from_string(source("page.html"))
    with replacing(path) as temporary:
        temporary.write_text(
            text.render(
                title=page.title,
                subtitle=page.subtitle,
                tiles=page.tiles,
                sections=page.sections,
                css=source("page.css"),
                data=data,
                plotly=plotly,
                plotly_path=plotly_path,
                script=source("plots.js") + source(page.script),
                version=version("rflbat"),
            ),
            encoding="utf-8",
        )
    return path


def short(value: float | None) -> float | None:
    """Round a number to the five digits that a plot can show, to keep pages small; None for what is not finite.

    Example:
        >>> short(0.123456789), short(123456.789), short(float("nan")), short(0.0)
        (0.12346, 123460.0, None, 0.0)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
