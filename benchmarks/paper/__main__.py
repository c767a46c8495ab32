"""Regenerate the paper's tables and figures and the page of results: ``python -m benchmarks.paper --jobs 2``.

A run with a row in the CSV files is not repeated, and an interrupted run continues from its checkpoint in ``--out``.
``--page`` only rewrites the page, the tables and the figures from the CSV files. ``--scale full`` runs FEMNIST and
Amazon on the paper's data (needs a GPU, and a separate results folder).
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.ledger import Ledger, read_csv, write_csv
from benchmarks.paper.measured import SCATTER_COLUMNS, SCATTERED, scatter_rows
from benchmarks.paper.scenarios import SCALES, SCENARIOS, scenarios
from benchmarks.paper.studies import STUDIES
from benchmarks.paper.where import WHERE
from rflbat.report.build import CELLS
from rflbat.sweep.cells import Cell, CellsFailed, Event, sweep

RESULTS = Path(__file__).parent / "results"


def measure(study: str, cells: Sequence[Cell], jobs: int, out: Path, results: Path) -> str:
    """Run the cells of a study that have no row yet; each row is written when its run finishes.

    Args:
        study: name of the study.
        cells: all runs of the study.
        jobs: number of processes.
        out: parent folder of the run folders.
        results: folder of the CSV files.

    Returns:
        one line about failed runs, or "".
    """
    ledger = Ledger(study, results, cells)
    left = ledger.missing(cells)
    print(f"{study}: {len(left)} of {len(cells)} runs to do", flush=True)

    def on_event(event: Event) -> None:
        if event.summary is None:
            return
        folder = out / study / CELLS / event.cell.name
        if study in SCATTERED and SCATTERED[study](event.cell):
            path, plane = results / f"scatter_{study}.csv", scatter_rows(event.cell, folder)
            others = [row for row in read_csv(path) if float(row["scale"]) != event.cell.experiment.scale]
            write_csv(path, SCATTER_COLUMNS, sorted([*others, *plane], key=lambda row: float(row["scale"])))
        ledger.add(event.cell, event.summary, folder)
        print(f"{study} {len(ledger.rows)}/{len(cells)}  {event.cell.name}", flush=True)

    try:
        sweep(left, out / study, jobs, on_event)
    except CellsFailed as failure:
        return str(failure)
    return ""


def main() -> None:
    """Run the missing cells, then write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    names = [*STUDIES, *SCENARIOS, *WHERE]
    parser.add_argument("studies", nargs="*", default=names, help=f"some of {', '.join(names)}; default all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the experiments on MNIST")
    parser.add_argument("--scale", choices=SCALES, default="small", help="size of the experiments beyond MNIST")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="parent folder of the run folders")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files, figures and page")
    parser.add_argument("--page", action="store_true", help="only rewrite the page from the CSV files")
    options = parser.parse_args()
    unknown = [study for study in options.studies if study not in names]
    if unknown:
        parser.error(f"unknown study '{unknown[0]}'; known: {', '.join(names)}")
    if options.scale != "small" and options.results == RESULTS:
        parser.error(f"--scale {options.scale} needs --results DIR: the committed rows are of --scale small")
    options.results.mkdir(exist_ok=True)
    studies = {**STUDIES, **scenarios(SCALES[options.scale]), **WHERE}
    failures = []
    if not options.page:
        for study in options.studies:
            cells = studies[study](options.seeds)
            failures += [said for said in [measure(study, cells, options.jobs, options.out, options.results)] if said]
    from benchmarks.paper.page import page  # late import: it takes seconds that a sweep need not wait for

    (options.results / "README.md").write_text(page(options.results, options.seeds, options.scale), encoding="utf-8")
    print(f"wrote {options.results / 'README.md'}")
    if failures:
        raise SystemExit("; ".join(failures))


if __name__ == "__main__":
    main()
