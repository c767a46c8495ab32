"""Write one HTML page from data, with scripts and plotting library inlined, so that it works offline."""

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
"""Colours for the scripts: the palette of the figures."""


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Args:
        id: prefix of the elements ``ID-plot``, ``ID-controls``, ``ID-status`` and ``ID-legend``, which the scripts
            fill.
        title: heading.
        note: explanation of how to read the section.
        plot: whether it has an element for a plot.
        controls: whether it has elements for controls and a status line.
        legend: whether it has an element for a legend.
        table: a table.
        links: column headings, and rows of (link target of the first cell, cells).
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
    """Contents of a page.

    Args:
        title: heading of the page.
        subtitle: one line below the heading.
        tiles: name and value of the headline numbers.
        sections: sections from top to bottom.
        data: data that the scripts draw.
        script: "run.js" or "sweep.js".
    """

    title: str
    subtitle: str
    tiles: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    data: Mapping[str, Any] = field(repr=False)
    script: str


def available() -> bool:
    """Return whether the packages that a page needs are installed; they come with ``rflbat[report]``."""
    return all(find_spec(name) for name in ("plotly", "jinja2"))


def plotly_source() -> str:
    """Return the source of plotly.js from the package plotly.

    Raises:
        UserError: the package is not installed.
    """
    if not available():
        raise UserError(NEEDS)
    return files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")


def write_page(page: Page, path: Path, plotly_path: str = "") -> Path:
    """Write a page atomically.

    Args:
        page: its contents.
        path: the HTML file.
        plotly_path: address of plotly.js relative to the page; "" inlines it.

    Returns:
        the path.

    Raises:
        UserError: plotly or jinja2 is not installed.
    """
    plotly = "" if plotly_path else plotly_source()
    from jinja2 import Environment

    web = files("rflbat.report").joinpath("web")

    def source(name: str) -> str:
        return web.joinpath(name).read_text(encoding="utf-8")

    # A "<" in the data could close the script element, so write it as a JSON escape.
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
    """Round a number to five significant digits, which keeps pages small; return None for a non-finite number.

    Example:
        >>> short(0.123456789), short(123456.789), short(float("nan")), short(0.0)
        (0.12346, 123460.0, None, 0.0)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
