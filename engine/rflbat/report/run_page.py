"""HTML page of a run: curves, PCA plane of each round, kept clients, detection, shadow defenses and settings."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from rflbat.report.figure_style import ACCURACY, ATTACK, BLACK, GREY, ORANGE, SKY
from rflbat.report.figures import FATES
from rflbat.report.page import PAGE, Page, Section, short, write_page
from rflbat.report.pca_figures import STAGES
from rflbat.report.shadow_report import by_defense, shadow_table
from rflbat.report.tables import Table, percent
from rflbat.report.threats import THREAT
from rflbat.storage.run_folder import RunFolder
from rflbat.storage.schema import LOCAL

Records = Sequence[Mapping[str, Any]]
SYMBOLS = {"o": "circle", "^": "triangle-up", "X": "x", "s": "square"}
"""Plotly's names of the markers in the figures."""
SPARE_SYMBOLS = ("diamond", "triangle-down", "star", "hexagon", "pentagon", "cross")
LOOKS = ((ACCURACY, "solid", "circle"), (ATTACK, "dash", "square"), (SKY, "dot", "diamond"), (ORANGE, "dashdot", "x"))
DETECTION = {
    "precision": "Precision: malicious share of the dropped",
    "recall": "Recall: dropped share of the malicious",
    "false_positive_rate": "False positives: dropped share of the benign",
    "malicious_weight": "Weight of malicious clients",
}
MEASURED = {
    "trigger": "On clean and on triggered test samples.",
    "labels": "On the test set; attack success on samples whose label the attacker changes in training.",
    "test set": "On the test set; attack success on the attack's own test samples.",
    "untargeted": "On the test set. An untargeted attack has no success rate.",
}
"""Samples on which a run is measured, by ``success`` of its attack."""
SCORES = {"rflbat": "cosine score"}
"""More specific name of a client's score, by defense."""


def run_page(folder: RunFolder, path: Path | None = None, plotly_path: str = "") -> Path:
    """Write the page of a run, finished or not.

    Args:
        folder: the run.
        path: the HTML file; default ``report.html`` in the folder.
        plotly_path: as in ``write_page``.

    Returns:
        the path.

    Raises:
        UserError: a file of the run is damaged, or plotly is not installed.
    """
    run, rounds, clients, shadows = folder.run(), folder.rounds(), folder.clients(), folder.shadows()
    config, summary = run.get("config", {}), folder.summary() or {}
    own = str(config.get("defense"))
    stages = _stages(run, clients)
    planes = _planes(clients, shadows, stages)
    data = {
        "defense": own,
        "rounds": {key: [record.get(key) for record in rounds] for key in ("round", "nobody_kept")},
        "curves": _curves(rounds),
        "attack_start": next((record["round"] for record in rounds if record.get("malicious")), 0),
        "stages": stages,
        "score_name": SCORES.get(own, "score"),
        "clients": planes,
        "present": _present(planes),
        "shadow_names": list(dict.fromkeys(record["defense"] for record in shadows)),
        "fates": _fates(clients),
        "detection": _lines(rounds, DETECTION),
        "shadow_lines": _shadow_lines(own, rounds, shadows),
    }
    curves = MEASURED.get(str(run.get("success")), MEASURED["trigger"])
    sections = _sections(data, bool(clients), shadow_table(own, rounds, shadows), _config_table(run), curves)
    title = f"{own} on {config.get('dataset')}"
    done = f"{len(rounds)} of {config.get('rounds')} rounds"
    knowledge = f" (knowledge: {run['knowledge']})" if run.get("knowledge") else ""
    subtitle = f"{config.get('attack') or 'no'} attack{knowledge}, {percent(config.get('malicious'))} malicious, {done}"
    page = Page(title, subtitle, _tiles(summary), sections, data, "run.js")
    return write_page(page, folder.path / PAGE if path is None else path, plotly_path)


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = {
        "accuracy": "Accuracy",
        "attack_success_rate": "Attack success rate",
        "attack_success_rate_inclusive": "Attack success rate, inclusive",
        "recall": "Malicious dropped",
        "false_positive_rate": "Benign dropped",
    }
    tiles = [(label, percent(summary[name])) for name, label in shown.items() if summary.get(name) is not None]
    if summary.get("seconds") is not None:
        tiles.append(("Seconds", f"{summary['seconds']:.1f}"))
    return tiles


def _lines(rounds: Records, names: Mapping[str, str]) -> list[dict[str, Any]]:
    looks = cycle(LOOKS)
    return [
        {"name": label, "values": [short(record.get(key)) for record in rounds], **_look(next(looks))}
        for key, label in names.items()
        if any(record.get(key) is not None for record in rounds)
    ]


def _look(look: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("colour", "dash", "symbol"), look, strict=True))


def _curves(rounds: Records) -> list[dict[str, Any]]:
    lines = _lines(rounds, {"accuracy": "Accuracy", "attack_success_rate": "Attack success rate"})
    triggers = max((len(record.get(LOCAL) or []) for record in rounds), default=0)
    for number in range(triggers):
        values = [short(record[LOCAL][number]) if record.get(LOCAL) else None for record in rounds]
        look = (GREY, ("dot", "dashdot", "longdash", "dash")[number % 4], "circle-open")
        lines.append({"name": f"Local trigger {number + 1}", "values": values, **_look(look)})
    return lines


def _stages(run: Mapping[str, Any], clients: Records) -> list[dict[str, str]]:
    """Return every stage of the defense, in order, with a label and a marker."""
    listed = [*(run.get("stages") or ["kept"]), *sorted({row["stage"] for row in clients})]
    names = ["kept", *(name for name in dict.fromkeys(listed) if name != "kept")]
    spare = cycle(SPARE_SYMBOLS)
    return [
        {
            "name": name,
            "label": STAGES[name][1] if name in STAGES else f"dropped: {name}",
            "symbol": SYMBOLS[STAGES[name][0]] if name in STAGES else next(spare),
        }
        for name in names
    ]


def _planes(clients: Records, shadows: Records, stages: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the columns of each round's clients; an empty list if no client of the run has coordinates."""
    number_of = {stage["name"]: number for number, stage in enumerate(stages)}
    by_round: dict[int, list[Mapping[str, Any]]] = {}
    for row in clients:
        by_round.setdefault(row["round"], []).append(row)
    if not any(row.get("coordinates") for row in clients):
        return []
    kept: dict[int, dict[str, list[int]]] = {}
    for record in shadows:
        kept.setdefault(record["round"], {})[record["defense"]] = record["kept"]
    return [
        {
            "round": number,
            "client": [row["client"] for row in rows],
            "malicious": [int(row["malicious"]) for row in rows],
            "stage": [number_of[row["stage"]] for row in rows],
            "x": [_coordinate(row, 0) for row in rows],
            "y": [_coordinate(row, 1) for row in rows],
            "cluster": [row.get("cluster") for row in rows],
            "score": [short(row.get("score")) for row in rows],
            "samples": [row["samples"] for row in rows],
            "shadows": kept.get(number, {}),
        }
        for number, rows in sorted(by_round.items())
    ]


def _coordinate(row: Mapping[str, Any], axis: int) -> float | None:
    """Return a coordinate: 0 along an axis that the defense does not have, None for a non-finite update."""
    found = row.get("coordinates")
    if not found or row["stage"] == "nonfinite":
        return None
    return short(found[axis]) if axis < len(found) else 0.0


def _present(planes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return all occurring combinations of role and stage, so that the legend is the same in every round."""
    own = {f"{bad}:{stage}" for part in planes for bad, stage in zip(part["malicious"], part["stage"], strict=True)}
    present = {"own": sorted(own)}
    for name in dict.fromkeys(name for part in planes for name in part["shadows"]):
        found = set()
        for part in planes:
            kept = set(part["shadows"].get(name, ()))
            found |= {f"{b}:{int(c not in kept)}" for b, c in zip(part["malicious"], part["client"], strict=True)}
        present[name] = sorted(found)
    return present


def _fates(clients: Records) -> dict[str, Any]:
    """Return the fate of each client in each round as its number in ``FATES``, from 1; 0 if it did not take part."""
    rounds, names = (sorted({row[key] for row in clients}) for key in ("round", "client"))
    if not clients:
        return {"rounds": [], "clients": [], "z": [], "legend": []}
    picture = np.zeros((len(names), rounds[-1] - rounds[0] + 1), dtype=np.int8)
    place = {name: row for row, name in enumerate(names)}
    numbers = {fate: number for number, fate in enumerate(FATES, start=1)}
    for row in clients:
        picture[place[row["client"]], row["round"] - rounds[0]] = numbers[bool(row["malicious"]), bool(row["kept"])]
    counts = np.bincount(picture.ravel(), minlength=5)
    totals = {False: counts[1] + counts[2], True: counts[3] + counts[4]}
    legend = [
        [f"{label} ({100 * counts[numbers[fate]] / totals[fate[0]]:.1f} %)", colour]
        for fate, (label, colour) in FATES.items()
        if totals[fate[0]]
    ]
    span = list(range(rounds[0], rounds[-1] + 1))
    return {"rounds": span, "clients": names, "z": picture.tolist(), "legend": legend}


def _shadow_lines(own: str, rounds: Records, shadows: Records) -> list[dict[str, Any]]:
    grouped = by_defense(own, rounds, shadows) if shadows else {}
    looks = cycle((*LOOKS, (BLACK, "longdash", "triangle-up"), (GREY, "solid", "star")))
    return [
        {
            "name": name,
            "rounds": [record["round"] for record in records],
            "values": [short(record.get("malicious_weight")) for record in records],
            **_look(next(looks)),
        }
        for name, records in grouped.items()
    ]


def _config_table(run: Mapping[str, Any]) -> Table:
    threat = [(name, run[name]) for name in THREAT if run.get(name)]
    pairs = [*run.get("config", {}).items(), *threat]
    rows = [(name, "" if value is None else str(value)) for name, value in pairs]
    return Table("", ("setting", "value"), rows)


def _sections(
    data: Mapping[str, Any], any_client: bool, shadows: Table | None, config: Table, curves: str
) -> list[Section]:
    """Return the sections for which the run has records."""
    parts = []
    if data["curves"]:
        parts.append(Section("curves", "Accuracy and attack success", curves))
    if data["clients"]:
        note = "Updates of one round, as the defense sees them. Colour: true role of the client; marker: decision."
        parts.append(Section("plane", "Updates in the PCA plane", note, controls=True))
    if any_client:
        note = "One row per client, white in rounds without it. Percentages are shares of its role over all rounds."
        parts.append(Section("fates", "Kept and dropped clients", note, legend=True))
    if data["detection"]:
        note = "How well the defense separates malicious from benign clients. Undefined rates are omitted."
        parts.append(Section("detection", "Detection", note))
    if shadows is not None:
        note = "Defenses that decided on the same updates without changing the run."
        parts.append(Section("shadows", "Shadow defenses", note, table=shadows))
    note = "All settings of this run, including defaults, and the threat model of its attack."
    return [*parts, Section("settings", "Settings", note, plot=False, table=config)]
