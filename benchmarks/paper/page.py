"""The page of results: the template ``notes.md``, filled from the committed CSV files, and the figures."""

import os
import re
import statistics
from pathlib import Path

from benchmarks.paper.beyond import sections
from benchmarks.paper.claims import comparisons, figure_6, figure_7, figure_11
from benchmarks.paper.ledger import read_csv
from benchmarks.paper.measured import clusters_table, noise_table, over_seeds, rates_table
from benchmarks.paper.pictures import bars, client_sizes, over_alpha, sizes_by_alpha
from benchmarks.paper.pictures_beyond import stamped_images, stamped_text
from benchmarks.paper.studies import ALPHAS, FIGURE_7_ALPHA, MNIST
from benchmarks.paper.verdicts import claims_table, clean_of, clean_rates, comparisons_table, count
from rflbat.data.registry import load
from rflbat.report.tables import Table, to_markdown
from rflbat.round.setup import DATA_DIR

NOTES = Path(__file__).parent / "notes.md"


def page(results: Path, seeds: int, scale: str) -> str:
    """Draw every figure and compose the page.

    Args:
        results: folder of the CSV files.
        seeds: seeds of the experiments on MNIST.
        scale: name of the scale of the other experiments.

    Returns:
        Markdown.
    """
    folder = os.environ.get(DATA_DIR)
    datasets = [load(name, Path(folder) if folder else None) for name in ("mnist", "femnist", "amazon")]
    stamped_images(datasets[:2], results / "figure5.png")
    tables = {**_mnist(results, seeds), **sections(results, datasets, scale)}
    tables["figure_5"] = Table("", ("trigger", "text"), stamped_text(datasets[2]))
    marks = {name: table if isinstance(table, str) else to_markdown(table) for name, table in tables.items()}
    marks["count"] = count(table for table in tables.values() if isinstance(table, Table))
    text = NOTES.read_text(encoding="utf-8")
    for name, section in marks.items():
        text = text.replace(f"{{{{{name}}}}}", section.strip())
    return re.sub(r"!\[([^]]*)\]\(([^)]+)\)", lambda found: _drawn(found, results), text)


def _drawn(found: re.Match[str], results: Path) -> str:
    """Keep a picture in the page only if it has been drawn."""
    return found[0] if (results / found[2]).exists() else f"{found[1]} is drawn once its runs are finished."


def _mnist(results: Path, seeds: int) -> dict[str, Table | str]:
    """Draw figures 6, 7, 11 and 12, and build the tables of their studies."""
    attackers, non_iid = read_csv(results / "attackers.csv"), read_csv(results / "non_iid.csv")
    by_share, by_alpha = over_seeds(attackers, "malicious"), over_seeds(non_iid, "alpha")
    for number, partition in ((6, "iid"), (7, "dirichlet")):
        bars([row for row in attackers if row["partition"] == partition], results / f"figure{number}.png")
    over_alpha(by_alpha, results / "figure11.png")
    sizes = sizes_by_alpha(os.environ.get(DATA_DIR), seeds)
    client_sizes(sizes, results / "figure12.png")
    spread = {alpha: statistics.fmean(float(each.std()) for each in drawn) for alpha, drawn in sizes.items()}
    size_rows = [
        (
            f"{alpha:g}",
            *(f"{statistics.fmean(f(each) for each in drawn):.0f}" for f in (min, statistics.median, max)),
            f"{spread[alpha]:.0f}",
        )
        for alpha, drawn in sizes.items()
    ]
    clean = clean_of(clean_rates(read_csv(results / "clean.csv")), "mnist")
    return {
        "figure_6": claims_table(figure_6(), attackers, "malicious", clean),
        "figure_7": claims_table(figure_7(), attackers, "malicious", clean),
        "figure_11": claims_table(figure_11(ALPHAS), non_iid, "alpha", clean),
        "comparisons": comparisons_table(comparisons(by_share, by_alpha, spread)),
        "figure_12": Table("", ("alpha", "smallest", "median", "largest", "standard deviation"), size_rows),
        "clusters": clusters_table(read_csv(results / "clusters.csv")),
        "clusters_longer": clusters_table(read_csv(results / "clusters_longer.csv")),
        "noise": noise_table(read_csv(results / "noise.csv")),
        "floor": rates_table([row for row in attackers if row["defense"] == "fedavg"], ("partition", "malicious")),
        "alpha": f"{FIGURE_7_ALPHA:g}",
        "rounds": str(MNIST.rounds),
        "seeds": str(len({row["seed"] for row in attackers})),
    }
