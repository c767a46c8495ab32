"""The pictures of figures 6, 7, 11 and 12, drawn from the committed CSV and the partitions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import rc_context

from benchmarks.paper.claims import Measured
from benchmarks.paper.studies import ALPHAS, MNIST
from rflbat.data.registry import load
from rflbat.report.figure_style import ACCURACY, ATTACK, STYLE, blank, percent_axis, save
from rflbat.report.figures import draw_sweep_bars
from rflbat.report.tables import aggregate
from rflbat.round.setup import divide, resolve


def bars(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw figures 6 and 7: accuracy and attack success of every defense, a panel for each malicious share."""
    cells = [
        (
            {"defense": row["defense"].replace(", ", "\n"), "malicious": float(row["malicious"]), "seed": row["seed"]},
            {key: float(row[key]) for key in ("accuracy", "attack_success_rate")},
        )
        for row in rows
    ]
    figure = draw_sweep_bars(aggregate(cells))
    if figure is None:
        raise ValueError("there are no finished runs to draw")
    save(figure, path)


def over_alpha(measured: Measured, path: Path) -> None:
    """Draw figure 11: accuracy and attack success of RFLBAT (default rule) over alpha."""
    with rc_context(STYLE):
        figure = blank(4.2, 2.8)
        axes = figure.subplots()
        for metric, label, colour, marker in (
            ("accuracy", "Accuracy", ACCURACY, "o"),
            ("attack_success_rate", "Attack success rate", ATTACK, "s"),
        ):
            points = sorted(
                (key[1], value.mean, value.spread) for key, value in measured.items() if key[2:] == ("rflbat", metric)
            )
            alpha, mean, spread = zip(*points, strict=True)
            axes.errorbar(alpha, mean, spread, label=label, color=colour, marker=marker, capsize=2)
        percent_axis(axes, "Percent of test samples")
        axes.set_xlabel("Dirichlet alpha")
        axes.legend(loc="center right")
        save(figure, path)


def sizes_by_alpha(data_dir: str | None, seeds: int) -> dict[float, list[np.ndarray]]:
    """Repeat the partitions of figure 11: alpha -> sizes of the clients, one array per seed."""
    experiment = resolve(replace(MNIST, partition="dirichlet", data_dir=data_dir))
    dataset = load("mnist", Path(experiment.data_dir) if experiment.data_dir else None)
    return {
        alpha: [
            np.array([len(own) for own in divide(replace(experiment, alpha=alpha, seed=seed), dataset)])
            for seed in range(seeds)
        ]
        for alpha in ALPHAS
    }


def client_sizes(sizes: Mapping[float, Sequence[np.ndarray]], path: Path) -> None:
    """Draw figure 12: samples of each client at each alpha (seed 0)."""
    with rc_context(STYLE):
        figure = blank(7.0, 3.6)
        panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
        for axes, (alpha, drawn) in zip(panels, sizes.items(), strict=True):
            axes.bar(np.arange(len(drawn[0])), drawn[0], width=1.0, color=ACCURACY)
            axes.set_title(f"alpha = {alpha:g}", loc="left")
        figure.supxlabel("Client", fontsize=9)
        figure.supylabel("Training samples", fontsize=9)
        save(figure, path)
