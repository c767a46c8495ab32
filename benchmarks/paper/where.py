"""Where RFLBAT holds: malicious share x clients x heterogeneity x cold or warm start x attack, and where it fails.

Beyond the paper, which has one setting for each of these.
"""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import rc_context

from benchmarks.paper.claims import DEFENDS
from benchmarks.paper.studies import MNIST
from benchmarks.paper.verdicts import LEARNED, Clean, Rows
from rflbat.experiment.config import Experiment
from rflbat.experiment.recipes import RECIPES
from rflbat.report.figure_style import STYLE, blank, save
from rflbat.report.tables import Table
from rflbat.sweep.cells import Cell, make_cells

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
CLIENTS = (20, 50, 100, 200)
DIVISIONS = (("iid", 1.0), ("dirichlet", 1.0), ("dirichlet", 0.5), ("dirichlet", 0.1))
ATTACKS = (("pixel", 1.0), ("pixel", 10.0), ("dba", 1.0))
STARTS = (0, 10)
AFTER = 20
"""Attacked rounds."""


def where_mnist(seeds: int) -> list[Cell]:
    """RFLBAT on MNIST in every combination, 20 attacked rounds, one seed."""
    cells = []
    for partition, alpha in DIVISIONS:
        for attack, scale in ATTACKS:
            for start in STARTS:
                rounds = start + AFTER
                base = replace(MNIST, partition=partition, attack=attack, rounds=rounds, eval_every=rounds)
                fixed = {"partition": [partition], "alpha": [alpha], "attack": [attack], "scale": [scale]}
                varied = {"attack_start": [start], "clients": CLIENTS, "malicious": SHARES}
                cells += make_cells(base, {**fixed, **varied}, 1)
    return cells


def where_femnist(seeds: int) -> list[Cell]:
    """RFLBAT on FEMNIST's writers, 40 and 100 of them a round, 20 attacked rounds, one seed."""
    cells = []
    for attack, scale in ATTACKS:
        for start in STARTS:
            rounds = start + AFTER
            base: Experiment = RECIPES["femnist"]().changed({"attack": attack, "rounds": rounds, "eval_every": rounds})
            grid = {"attack": [attack], "scale": [scale], "attack_start": [start]}
            cells += make_cells(base, {**grid, "participants": (40, 100), "malicious": (0.1, 0.5, 0.9)}, 1)
    return cells


WHERE = {"where_mnist": where_mnist, "where_femnist": where_femnist}


def case_of(row: Mapping[str, str]) -> tuple[str, str, str]:
    """Name attack, start and division of a run."""
    attack = f"{row['attack']}, lambda {float(row['scale']):g}"
    start = "cold start" if row["attack_start"] == "0" else f"after {row['attack_start']} clean rounds"
    return attack, start, f"alpha {row['alpha']}" if row["partition"] == "dirichlet" else row["partition"]


def holds(row: Mapping[str, str], clean: Clean) -> bool:
    """Return whether attack success is at most 5 % on a model with at least 0.8 of the accuracy without an attack."""
    success, accuracy = (100 * float(row[key]) for key in ("attack_success_rate", "accuracy"))
    reached = clean(row["dataset"], row["partition"], float(row["alpha"])).accuracy
    return success <= DEFENDS and accuracy >= LEARNED * reached


def table(rows: Rows, clean: Clean) -> Table:
    """Count the runs in which RFLBAT holds, by attack, start and division."""
    cases: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        cases.setdefault(case_of(row), []).append(row)
    body = []
    for case, mine in cases.items():
        held = [row for row in mine if holds(row, clean)]
        accuracy = statistics.fmean(100 * float(row["accuracy"]) for row in mine)
        body.append((*case, f"{len(held)} of {len(mine)}", f"{accuracy:.1f}", _broken(mine, clean)))
    heads = ("attack", "start", "division", "holds in", "mean accuracy, %", "does not hold at: share of clients")
    return Table("", heads, body)


def _broken(rows: Rows, clean: Clean) -> str:
    """List the malicious shares, by the number of clients of a round, at which a case does not hold."""
    by_size: dict[str, list[str]] = {}
    for row in rows:
        if not holds(row, clean):
            by_size.setdefault(row["participants"] or row["clients"], []).append(f"{float(row['malicious']):.0%}")
    return "; ".join(f"{', '.join(shares)} of {size}" for size, shares in by_size.items())


def picture(rows: Rows, path: Path, clean: Clean) -> None:
    """Draw attack success over malicious share and clients, a panel for each attack, start and division."""
    cases = list(dict.fromkeys(map(case_of, rows)))
    divisions = list(dict.fromkeys(case[2] for case in cases))
    lines = list(dict.fromkeys(case[:2] for case in cases))
    with rc_context(STYLE):
        figure = blank(1.9 * len(divisions) + 1.2, 1.35 * len(lines) + 0.6)
        panels = figure.subplots(len(lines), len(divisions), sharex=True, sharey=True, squeeze=False)
        for line, row_of_panels in zip(lines, panels, strict=True):
            for division, axes in zip(divisions, row_of_panels, strict=True):
                mine = [row for row in rows if case_of(row) == (*line, division)]
                image = _panel(axes, mine, clean)
                axes.set_title(division if line == lines[0] else "", fontsize=8)
            row_of_panels[0].set_ylabel(f"{line[0]}\n{line[1]}", fontsize=7)
        figure.supxlabel("Malicious share of the clients of a round", fontsize=9)
        figure.colorbar(image, ax=panels, label="Attack success (%)", shrink=0.6)
        save(figure, path)


def _panel(axes, rows: Rows, clean: Clean):  # type: ignore[no-untyped-def]
    """Draw one panel; a thick line separates the cells that hold from those that do not."""
    sizes = sorted({int(row["participants"] or row["clients"]) for row in rows})
    shares = sorted({float(row["malicious"]) for row in rows})
    values = np.full((len(sizes), len(shares)), np.nan)
    held = np.full(values.shape, np.nan)  # no line is drawn beside NaN
    for row in rows:
        at = sizes.index(int(row["participants"] or row["clients"])), shares.index(float(row["malicious"]))
        values[at] = 100 * float(row["attack_success_rate"])
        held[at] = holds(row, clean)
    image = axes.imshow(values, vmin=0, vmax=100, cmap="magma_r", aspect="auto", origin="lower")
    for y, x in np.ndindex(values.shape):
        if x + 1 < len(shares) and abs(held[y, x] - held[y, x + 1]) == 1:
            axes.plot([x + 0.5] * 2, [y - 0.5, y + 0.5], color="#1a7f37", lw=2)
        if y + 1 < len(sizes) and abs(held[y, x] - held[y + 1, x]) == 1:
            axes.plot([x - 0.5, x + 0.5], [y + 0.5] * 2, color="#1a7f37", lw=2)
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    axes.set_yticks(range(len(sizes)), [str(size) for size in sizes])
    return image
