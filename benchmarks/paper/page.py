"""The page of results: the marks of ``notes.md`` filled from the committed CSV files, and the figures beside it."""

import os
import statistics
from pathlib import Path

from benchmarks.paper.beyond import sections
from benchmarks.paper.claims import Measured, comparisons, figure_6, figure_7, figure_11
from benchmarks.paper.measured import claims_table, clusters_table, noise_table, over_seeds, read_csv, with_spread
from benchmarks.paper.pictures import bars, client_sizes, over_alpha, sizes_by_alpha
from benchmarks.paper.pictures_beyond import stamped_images, stamped_text
from benchmarks.paper.studies import ALPHAS, FIGURE_7_ALPHA, MNIST
from rflbat.data.registry import load
from rflbat.results.tables import Table, to_markdown
from rflbat.world import DATA_DIR

NOTES = Path(__file__).parent / "notes.md"


def page(results: Path, seeds: int, scale: str) -> str:
    """Write every figure and give the page.

    Args:
        results: folder of the CSV files.
        seeds: seeds of the experiments on MNIST.
        scale: name of the scale of the others.

    Returns:
        Markdown.
    """
    folder = os.environ.get(DATA_DIR)
    datasets = [load(name, Path(folder) if folder else None) for name in ("mnist", "femnist", "amazon")]
    stamped_images(datasets[:2], results / "figure5.png")
    marks = {**_mnist(results, seeds), **sections(results, datasets, scale)}
    marks["{{figure_5}}"] = to_markdown(Table("", ("trigger", "text"), stamped_text(datasets[2])))
    text = NOTES.read_text(encoding="utf-8")
    for mark, section in marks.items():
        text = text.replace(mark, section.strip())
    return text


def _mnist(results: Path, seeds: int) -> dict[str, str]:
    """Figures 6, 7, 11 and 12, and the studies behind them."""
    attackers, non_iid = read_csv(results / "attackers.csv"), read_csv(results / "non_iid.csv")
    by_share, by_alpha = over_seeds(attackers, "malicious"), over_seeds(non_iid, "alpha")
    for number, partition in ((6, "iid"), (7, "dirichlet")):
        bars([row for row in attackers if row["partition"] == partition], results / f"figure{number}.png")
    over_alpha(by_alpha, results / "figure11.png")
    sizes = sizes_by_alpha(os.environ.get(DATA_DIR), seeds)
    client_sizes(sizes, results / "figure12.png")
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
    return {
        "{{figure_6}}": to_markdown(claims_table(figure_6(), by_share, "malicious")),
        "{{figure_7}}": to_markdown(claims_table(figure_7(), by_share, "malicious")),
        "{{figure_11}}": to_markdown(claims_table(figure_11(ALPHAS), by_alpha, "alpha")),
        "{{comparisons}}": to_markdown(Table("", ("figure", "claim", "here", "verdict"), verdicts)),
        "{{figure_12}}": to_markdown(
            Table("", ("alpha", "smallest", "median", "largest", "standard deviation"), size_rows)
        ),
        "{{clusters}}": to_markdown(clusters_table(read_csv(results / "clusters.csv"))),
        "{{clusters_longer}}": to_markdown(clusters_table(read_csv(results / "clusters_longer.csv"))),
        "{{noise}}": to_markdown(noise_table(read_csv(results / "noise.csv"))),
        "{{floor}}": to_markdown(floor_table(by_share)),
        "{{alpha}}": f"{FIGURE_7_ALPHA:g}",
        "{{rounds}}": str(MNIST.rounds),
        "{{seeds}}": str(len({row["seed"] for row in attackers})),
    }


def floor_table(measured: Measured) -> Table:
    """FedAvg in the same cells: what happens without a defense."""
    body = []
    for (partition, share, defense, metric), (mean, spread) in measured.items():
        if defense == "fedavg" and metric == "attack_success_rate":
            accuracy = measured[partition, share, defense, "accuracy"]
            body.append(
                (
                    partition,
                    f"{100 * share:.0f} %",
                    with_spread(mean, spread),
                    with_spread(*accuracy),
                )
            )
    return Table("", ("partition", "malicious", "attack success, %", "accuracy, %"), body)
