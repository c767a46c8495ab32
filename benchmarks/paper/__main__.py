"""Regenerate the paper's MNIST figures and the page of results: ``python -m benchmarks.paper --jobs 2``.

Finished cells are not run again, so a stopped command goes on where it was. ``--page`` only rewrites the page, the
tables and the figures from the committed CSV.
"""

import argparse
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.claims import comparisons, figure_6, figure_7, figure_11
from benchmarks.paper.measured import (
    claims_table,
    clusters_table,
    noise_table,
    over_seeds,
    read_csv,
    row_of,
    write_csv,
)
from benchmarks.paper.pictures import bars, client_sizes, over_alpha, sizes_by_alpha
from benchmarks.paper.scenarios import SCALES, SCENARIOS, scenarios
from benchmarks.paper.studies import ALPHAS, FIGURE_7_ALPHA, MNIST, STUDIES
from rflbat.results.report import CELLS
from rflbat.results.tables import Table, to_markdown
from rflbat.sweep import Cell, sweep
from rflbat.world import DATA_DIR

RESULTS = Path(__file__).parent / "results"
NOTES = Path(__file__).parent / "notes.md"


def measure(study: str, cells: Sequence[Cell], jobs: int, out: Path) -> None:
    """Run the cells of a study that are not finished, and write its CSV."""
    done = 0

    def on_cell(cell: Cell, summary: dict[str, object]) -> None:
        nonlocal done
        done += 1
        print(f"{study} {done}/{len(cells)}  {cell.name}", flush=True)

    summaries = sweep(cells, out / study, jobs, on_cell)
    write_csv(
        RESULTS / f"{study}.csv",
        [row_of(study, cell, summaries[cell.name], out / study / CELLS / cell.name) for cell in cells],
    )


def page(seeds: int) -> str:
    """Write figures and tables from the CSV files, and return the page."""
    attackers, non_iid = read_csv(RESULTS / "attackers.csv"), read_csv(RESULTS / "non_iid.csv")
    by_share, by_alpha = over_seeds(attackers, "malicious"), over_seeds(non_iid, "alpha")
    for number, partition in ((6, "iid"), (7, "dirichlet")):
        bars([row for row in attackers if row["partition"] == partition], RESULTS / f"figure{number}.png")
    over_alpha(by_alpha, RESULTS / "figure11.png")
    sizes = sizes_by_alpha(os.environ.get(DATA_DIR), seeds)
    client_sizes(sizes, RESULTS / "figure12.png")
    spread = {alpha: statistics.fmean(float(each.std()) for each in drawn) for alpha, drawn in sizes.items()}

    compared = comparisons(by_share, by_alpha, spread)
    verdicts = [
        (figure, claim, here, "holds" if holds else "**does not hold**") for figure, claim, here, holds in compared
    ]
    size_rows = [
        (
            f"{alpha:g}",
            *(f"{statistics.fmean(f(each) for each in drawn):.0f}" for f in (min, statistics.median, max)),
            f"{spread[alpha]:.0f}",
        )
        for alpha, drawn in sizes.items()
    ]
    sections = {
        "{{figure_6}}": to_markdown(claims_table(figure_6(), by_share, "malicious")),
        "{{figure_7}}": to_markdown(claims_table(figure_7(), by_share, "malicious")),
        "{{figure_11}}": to_markdown(claims_table(figure_11(ALPHAS), by_alpha, "alpha")),
        "{{comparisons}}": to_markdown(Table("", ("figure", "claim", "here", "verdict"), verdicts)),
        "{{figure_12}}": to_markdown(
            Table("", ("alpha", "smallest", "median", "largest", "standard deviation"), size_rows)
        ),
        "{{clusters}}": to_markdown(clusters_table(read_csv(RESULTS / "clusters.csv"))),
        "{{clusters_longer}}": to_markdown(clusters_table(read_csv(RESULTS / "clusters_longer.csv"))),
        "{{noise}}": to_markdown(noise_table(read_csv(RESULTS / "noise.csv"))),
        "{{floor}}": to_markdown(floor_table(by_share)),
        "{{alpha}}": f"{FIGURE_7_ALPHA:g}",
        "{{rounds}}": str(MNIST.rounds),
        "{{seeds}}": str(len({row["seed"] for row in attackers})),
    }
    text = NOTES.read_text(encoding="utf-8")
    for mark, section in sections.items():
        text = text.replace(mark, section.strip())
    return text


def floor_table(measured: dict[tuple[str, float, str, str], tuple[float, float]]) -> Table:
    """FedAvg in the same cells: what happens without a defense."""
    body = []
    for (partition, share, defense, metric), (mean, spread) in measured.items():
        if defense == "fedavg" and metric == "attack_success_rate":
            accuracy = measured[partition, share, defense, "accuracy"]
            body.append(
                (
                    partition,
                    f"{100 * share:.0f} %",
                    f"{mean:.1f} ± {spread:.1f}",
                    f"{accuracy[0]:.1f} ± {accuracy[1]:.1f}",
                )
            )
    return Table("", ("partition", "malicious", "attack success, %", "accuracy, %"), body)


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
    missing = [study for study in STUDIES if not (RESULTS / f"{study}.csv").exists()]
    if missing:
        print(f"no page yet: {', '.join(missing)} still to be measured")
        return
    (RESULTS / "README.md").write_text(page(options.seeds), encoding="utf-8")
    print(f"wrote {RESULTS / 'README.md'}")


if __name__ == "__main__":
    main()
