"""The pictures beyond MNIST's figures 6, 7, 11 and 12: figures 3, 5, 13 and 14, and the boundary of the DBA attack."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib import rc_context

from rflbat.attacks.base import SampleFormat
from rflbat.attacks.registry import make_attack
from rflbat.data.base import Dataset, as_inputs
from rflbat.report.figure_style import (
    ACCURACY,
    ATTACK,
    BENIGN,
    GREY,
    MALICIOUS,
    ORANGE,
    STYLE,
    blank,
    percent_axis,
    save,
)

Rows = Sequence[Mapping[str, str]]


def clients_curve(rows: Rows, path: Path) -> None:
    """Draw figure 13: RFLBAT's accuracy and attack success over the number of clients."""
    with rc_context(STYLE):
        figure = blank(4.6, 2.8)
        axes = figure.subplots()
        sizes = sorted({int(row["clients"]) for row in rows})
        for key, label, colour, marker in (
            ("accuracy", "Accuracy", ACCURACY, "o"),
            ("attack_success_rate", "Attack success rate", ATTACK, "s"),
        ):
            means = [statistics.fmean(100 * float(r[key]) for r in rows if int(r["clients"]) == n) for n in sizes]
            axes.plot(sizes, means, label=label, color=colour, marker=marker, ms=4, clip_on=False)
        percent_axis(axes, "Percent of test samples")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel("Clients of a round")
        figure.legend(loc="outside upper center", ncols=2)
        save(figure, path)


def boundary_curves(rows: Rows, path: Path) -> None:
    """Draw the distributed backdoor's attack success and the deciding similarities over the clean rounds before it."""
    looks = {
        ("silhouette", "10"): (BENIGN, "-", "silhouette, 10 steps"),
        ("2", "10"): (MALICIOUS, "--", "2 clusters, 10 steps"),
        ("5", "10"): (ORANGE, "-.", "5 clusters, 10 steps"),
        ("silhouette", "1"): (GREY, "-", "silhouette, 1 step"),
        ("silhouette", "3"): (GREY, ":", "silhouette, 3 steps"),
    }
    with rc_context(STYLE):
        figure = blank(5.6, 5.4)
        attack, similarity = figure.subplots(2, 1, sharex=True)
        for case, (colour, line, label) in looks.items():
            mine = [row for row in rows if (row["clusters_by"], row["local_steps"]) == case]
            starts = sorted({int(row["attack_start"]) for row in mine})

            def means(key: str, mine: Rows = mine, starts: Sequence[int] = starts) -> list[float]:
                return [statistics.fmean(float(r[key]) for r in mine if int(r["attack_start"]) == s) for s in starts]

            look = {"color": colour, "ls": line, "ms": 4}
            attack.plot(
                starts, [100 * x for x in means("attack_success_rate")], "o", label=label, clip_on=False, **look
            )
            if case[0] == "silhouette":
                gap = [m - h for m, h in zip(means("similarity_malicious"), means("similarity_honest"), strict=True)]
                similarity.plot(starts, gap, "o", **look)
        percent_axis(attack, "Attack success rate (%)")
        similarity.axhline(0, color=GREY, lw=0.8)
        similarity.set_ylabel("Mean similarity, malicious\nminus honest, first attacked round")
        similarity.set_xlabel("Clean rounds before the attack")
        figure.legend(loc="outside upper center", ncols=3)
        save(figure, path)


def scatter(rows: Rows, path: Path) -> None:
    """Draw figures 3 and 14: updates in the plane of their principal components, a panel for each lambda."""
    with rc_context(STYLE):
        panels = sorted({float(row["scale"]) for row in rows})
        figure = blank(3.2 * len(panels), 3.0)
        for axes, scale in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for truth, label, colour, marker in (("0", "Benign", BENIGN, "o"), ("1", "Malicious", MALICIOUS, "X")):
                mine = [row for row in rows if row["malicious"] == truth and float(row["scale"]) == scale]
                x, y = ([float(row[key]) for row in mine] for key in ("x", "y"))
                axes.scatter(x, y, s=16, label=label, color=colour, marker=marker, alpha=0.7, lw=0)
            axes.set_title(f"lambda = {scale:g}, round {rows[0]['round']}", loc="left")
            axes.set_xlabel("First component")
        figure.axes[0].set_ylabel("Second component")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
        save(figure, path)


def stamped_images(datasets: Sequence[Dataset], path: Path) -> None:
    """Draw figure 5a: test images, clean and with each trigger."""
    with rc_context(STYLE):
        figure = blank(7.2, 1.2 * len(datasets) + 0.3)
        grid = figure.subplots(len(datasets), 7)
        for row, dataset in zip(grid, datasets, strict=True):
            samples = SampleFormat(dataset.shape, dataset.high)
            pixel, dba = (make_attack(name, samples, 1.0, {}) for name in ("pixel", "dba"))
            triggers = (None, pixel.full_trigger, dba.full_trigger, *dba.local_triggers)
            names = ("clean", "pixel", "dba", *(f"dba, part {group}" for group in range(4)))
            for axes, trigger, name in zip(row, triggers, names, strict=True):
                image = as_inputs(dataset.test_x[:1], dataset)
                image = image if trigger is None else trigger(image, torch.tensor([True]))
                axes.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1)
                axes.set_title(name, fontsize=7)
                axes.set_axis_off()
        save(figure, path)


def stamped_text(dataset: Dataset) -> list[tuple[str, str]]:
    """Return figure 5b: the shortest test review with each trigger, as (trigger, text)."""
    assert dataset.words is not None
    shortest = dataset.test_x[(dataset.test_x != 0).sum(1).argmin()][None].long()
    samples = SampleFormat(dataset.shape, dataset.high, dataset.encode)
    dba = make_attack("dba", samples, 1.0, {})
    named = {"clean": None, "sentence": dba.full_trigger}
    named |= {f"dba, part {group}": trigger for group, trigger in enumerate(dba.local_triggers)}
    shown = []
    for name, trigger in named.items():
        ids = shortest if trigger is None else trigger(shortest.clone(), torch.tensor([True]))
        shown.append((name, " ".join(dataset.words[token] for token in ids[0].tolist() if token)))
    return shown
