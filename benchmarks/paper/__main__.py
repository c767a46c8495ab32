"""Regenerate the paper's tables and figures and the page of results: ``python -m benchmarks.paper --jobs 2``.

Finished cells are not run again, so a stopped command goes on where it was. ``--page`` only rewrites the page, the
tables and the figures from the committed CSV. ``--scale full`` runs FEMNIST and Amazon at the paper's size (a GPU, and
an ``--out`` of its own).
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.measured import SCATTERED, row_of, write_csv, write_scatter
from benchmarks.paper.page import page
from benchmarks.paper.scenarios import SCALES, SCENARIOS, scenarios
from benchmarks.paper.studies import STUDIES
from rflbat.results.report import CELLS
from rflbat.sweep import Cell, sweep

RESULTS = Path(__file__).parent / "results"


def measure(study: str, cells: Sequence[Cell], jobs: int, out: Path) -> None:
    """Run the cells of a study that are not finished, and write its CSV."""
    done = 0

    def on_cell(cell: Cell, summary: dict[str, object]) -> None:
        nonlocal done
        done += 1
        print(f"{study} {done}/{len(cells)}  {cell.name}", flush=True)

    summaries = sweep(cells, out / study, jobs, on_cell)
    folders = {cell.name: out / study / CELLS / cell.name for cell in cells}
    write_csv(
        RESULTS / f"{study}.csv", [row_of(study, cell, summaries[cell.name], folders[cell.name]) for cell in cells]
    )
    if study in SCATTERED:
        write_scatter(RESULTS / f"scatter_{study}.csv", [cell for cell in cells if SCATTERED[study](cell)], folders)


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    names = [*STUDIES, *SCENARIOS]
    parser.add_argument("studies", nargs="*", default=names, help=f"some of {', '.join(names)}; default all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the experiments on MNIST")
    parser.add_argument("--scale", choices=SCALES, default="small", help="size of the experiments beyond MNIST")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="where the run folders lie")
    parser.add_argument("--page", action="store_true", help="run nothing; rewrite the page from the committed CSV")
    options = parser.parse_args()
    unknown = [study for study in options.studies if study not in names]
    if unknown:
        parser.error(f"unknown study '{unknown[0]}'; known: {', '.join(names)}")
    RESULTS.mkdir(exist_ok=True)
    studies = {**STUDIES, **scenarios(SCALES[options.scale])}
    if not options.page:
        for study in options.studies:
            measure(study, studies[study](options.seeds), options.jobs, options.out)
    missing = [study for study in names if not (RESULTS / f"{study}.csv").exists()]
    if missing:
        print(f"no page yet: {', '.join(missing)} still to be measured")
        return
    (RESULTS / "README.md").write_text(page(RESULTS, options.seeds, options.scale), encoding="utf-8")
    print(f"wrote {RESULTS / 'README.md'}")


if __name__ == "__main__":
    main()
