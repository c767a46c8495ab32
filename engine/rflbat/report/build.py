"""Reports: page, figures and tables of a run and of a sweep, rebuilt from the records on disk."""

from dataclasses import dataclass
from pathlib import Path

from rflbat.errors import UserError
from rflbat.report.figure_style import save
from rflbat.report.figures import (
    draw_accuracy_and_attack,
    draw_client_sizes,
    draw_kept_over_rounds,
    draw_sweep_bars,
    grouping,
    setting_label,
)
from rflbat.report.page import available
from rflbat.report.pca_figures import draw_pca_panels, draw_pca_scatter, located
from rflbat.report.run_page import run_page
from rflbat.report.shadow_report import draw_shadows, shadow_table
from rflbat.report.sweep_page import sweep_page
from rflbat.report.tables import SweepRow, Table, aggregate, sweep_table, sweep_values, to_csv, to_latex, to_markdown
from rflbat.report.threats import threat_config, with_accuracy_lost
from rflbat.storage.atomic import replacing
from rflbat.storage.run_folder import RUN, RunFolder
from rflbat.storage.schema import CELLS

PANELS = 6


@dataclass(frozen=True)
class SweepReport:
    """Result of ``report_sweep``.

    Args:
        files: the table as CSV, Markdown and LaTeX, the figures as PNG and PDF, and the page.
        table: the aggregated table, for display.
        unfinished: names of the cells without a result, which the table omits.
    """

    files: list[Path]
    table: Table
    unfinished: list[str]


def report_run(path: Path) -> list[Path]:
    """Redraw every figure of a run, finished or not, and write its page.

    Args:
        path: the run folder.

    Returns:
        the PNG files in ``path/figures``, the table of shadow defenses as Markdown, CSV and LaTeX, and ``report.html``.
        Files for which the run has no records are omitted; so is the page if the packages of ``rflbat[report]`` are not
        installed.

    Raises:
        UserError: the folder contains no run, or a file of it is damaged.
    """
    folder = RunFolder.open(path)
    clients, own = folder.clients(), str(folder.run().get("config", {}).get("defense"))
    last = max((row["round"] for row in located(clients)), default=None)
    drawn = {
        "accuracy_and_attack.png": draw_accuracy_and_attack(folder.rounds()),
        "pca_rounds.png": draw_pca_panels(clients),
        "pca_last_round.png": draw_pca_scatter([row for row in clients if row["round"] == last]),
        "kept_over_rounds.png": draw_kept_over_rounds(clients),
        "client_sizes.png": draw_client_sizes(folder.run().get("sizes") or []),
        "shadows.png": draw_shadows(own, folder.rounds(), folder.shadows()),
    }
    made = [save(figure, folder.figures / name) for name, figure in drawn.items() if figure is not None]
    table = shadow_table(own, folder.rounds(), folder.shadows())
    if table is not None:
        made += _tables(path / "shadows", table, table)
    return [*made, run_page(folder)] if available() else made


def _tables(stem: Path, shown: Table, values: Table, note: str = "") -> list[Path]:
    """Write a table as CSV (numeric values), Markdown (followed by a note) and LaTeX (as displayed)."""
    return [
        _write(stem.with_suffix(".csv"), to_csv(values)),
        _write(stem.with_suffix(".md"), f"{shown.title}\n\n{to_markdown(shown)}{note}"),
        _write(stem.with_suffix(".tex"), to_latex(shown)),
    ]


def report_sweep(path: Path) -> SweepReport:
    """Aggregate the finished cells of a sweep over their seeds into tables, figures and a page.

    Args:
        path: folder of the sweep; each run has a folder of its own in ``path/cells``.

    Returns:
        the files written (``table.csv``, ``table.md``, ``table.tex``, bar charts as PNG and PDF, and the page), the
        table and the names of unfinished cells. Each figure shows up to six settings. The page is omitted if the
        packages of ``rflbat[report]`` are not installed.

    Raises:
        UserError: there are no cells, none is finished, or a file of one is damaged.
    """
    folders = sorted(cell for cell in (path / CELLS).glob("*") if cell.is_dir())
    if not folders:
        raise UserError(f"{path} is not the folder of a sweep: {path / CELLS} contains no runs")
    finished, unfinished = [], []
    for cell in folders:
        folder = RunFolder(cell)
        summary = folder.summary()
        if summary is None or not (cell / RUN).exists():
            unfinished.append(cell.name)
        else:
            finished.append(folder)
    if not finished:
        raise UserError(f"{path}: none of the {len(folders)} runs of this sweep is finished")
    cells = [(threat_config(folder.run()), folder.summary() or {}) for folder in finished]
    rows = aggregate(with_accuracy_lost(cells))
    table = sweep_table(rows)
    note = f"\nUnfinished runs, not in the table: {', '.join(unfinished)}\n" if unfinished else ""
    files = [
        *_tables(path / "table", table, sweep_values(rows), note),
        *_sweep_figures(path / "figures", rows),
        *([sweep_page(path, rows, table, finished)] if available() else []),
    ]
    return SweepReport(files, table, unfinished)


def _sweep_figures(folder: Path, rows: list[SweepRow]) -> list[Path]:
    axis = grouping(rows)
    labels = list(dict.fromkeys(setting_label(row, axis) for row in rows))
    parts = [set(labels[start : start + PANELS]) for start in range(0, len(labels), PANELS)]
    names = ["sweep.png"] if len(parts) == 1 else [f"sweep_{number}.png" for number in range(1, len(parts) + 1)]
    figures = [draw_sweep_bars([row for row in rows if setting_label(row, axis) in part], axis) for part in parts]
    drawn = [(folder / name, figure) for name, figure in zip(names, figures, strict=True) if figure is not None]
    return [save(figure, path.with_suffix(kind)) for path, figure in drawn for kind in (".png", ".pdf")]


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path
