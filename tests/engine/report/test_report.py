import csv
import json

import pytest

from rflbat.errors import UserError
from rflbat.report.build import report_run, report_sweep
from rflbat.storage.run_folder import CLIENTS, ROUNDS, RUN, SUMMARY, TIMINGS

PCA = ["pca_rounds.png", "pca_last_round.png"]
PAGE = "report.html"
FIGURES = ["accuracy_and_attack.png", *PCA, "kept_over_rounds.png", "client_sizes.png"]


@pytest.fixture
def unsaved(monkeypatch):
    """Draws the figures without the slow part, which is to make pixels of them."""
    drawn = []
    monkeypatch.setattr("rflbat.report.build.save", lambda figure, path: drawn.append(figure) or path)
    return drawn


def write_sweep(write_run, path, defenses=("krum", "rflbat"), shares=(0.1, 0.5), seeds=2):
    for name in defenses:
        for share in shares:
            for seed in range(seeds):
                cell = path / "cells" / f"{name}-{share}-{seed}"
                folder = write_run(cell, rounds=1, clients=5, malicious=share, defense=name, seed=seed)
                folder.write_summary({"accuracy": 0.9 - share * 0.1 - 0.01 * seed, "attack_success_rate": share})
    return path


def test_every_figure_of_a_run_is_drawn(run):
    files = report_run(run.path)
    assert [file.name for file in files] == [*FIGURES, PAGE]
    assert all(file.parent == run.path / "figures" and file.stat().st_size > 5000 for file in files[:-1])
    assert sorted(path.name for path in (run.path / "figures").iterdir()) == sorted(FIGURES)


def test_figures_without_records_are_left_out(run, unsaved):
    clients = [row | {"coordinates": None} for row in run.clients()]
    (run.path / CLIENTS).unlink()
    run.append_clients(clients)
    assert [file.name for file in report_run(run.path)] == [*(name for name in FIGURES if name not in PCA), PAGE]
    for name in (CLIENTS, ROUNDS, TIMINGS):
        (run.path / name).unlink()
    assert [file.name for file in report_run(run.path)] == ["client_sizes.png", PAGE]


def test_a_killed_run_can_be_reported(run, unsaved):
    for name in (ROUNDS, CLIENTS):
        contents = (run.path / name).read_bytes()
        (run.path / name).write_bytes(contents[:-7])
    assert len(report_run(run.path)) == len(FIGURES) + 1


def test_the_last_round_with_coordinates_is_drawn(run, unsaved, monkeypatch):
    shown = []
    run.append_clients([row | {"round": 5, "coordinates": None} for row in run.clients() if row["round"] == 0])
    monkeypatch.setattr("rflbat.report.build.draw_pca_scatter", lambda rows: shown.extend(rows))
    report_run(run.path)
    assert {row["round"] for row in shown} == {4}
    assert len(shown) == 21


def test_a_folder_without_a_run_is_an_error(tmp_path, run):
    with pytest.raises(UserError, match=r"run\.json"):
        report_run(tmp_path)
    (run.path / RUN).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        report_run(run.path)


def test_a_sweep_is_aggregated(write_run, tmp_path):
    path = write_sweep(write_run, tmp_path / "sweep")
    report = report_sweep(path)
    names = [str(file.relative_to(path)) for file in report.files]
    assert names == ["table.csv", "table.md", "table.tex", "figures/sweep.png", "figures/sweep.pdf", PAGE]
    assert (path / "figures/sweep.pdf").read_bytes().startswith(b"%PDF-")
    assert (path / "figures/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert report.unfinished == []
    records = list(csv.DictReader((path / "table.csv").read_text().splitlines()))
    assert [(record["defense"], record["malicious"], record["seeds"]) for record in records] == [
        (name, share, "2") for share in ("0.1", "0.5") for name in ("krum", "rflbat")
    ]
    assert float(records[0]["accuracy_mean"]) == pytest.approx(0.885)
    assert "| rflbat | 0.5 | 2 | 84.5 ± 0.7 % | 50.0 ± 0.0 % |" in (path / "table.md").read_text()
    latex = (path / "table.tex").read_text()
    assert r"rflbat & 0.5 & 2 & 84.5 $\pm$ 0.7 \% & 50.0 $\pm$ 0.0 \% \\" in latex
    assert (latex.count(r"\toprule"), latex.count(r"\bottomrule"), latex.count("\n")) == (1, 1, 5 + 1 + 4)
    assert "Unfinished" not in (path / "table.md").read_text()
    assert report.table.rows[0][:3] == ("krum", "0.1", "2")


def test_unfinished_cells_are_named_and_left_out(write_run, tmp_path, unsaved):
    path = write_sweep(write_run, tmp_path / "sweep")
    (path / "cells" / "krum-0.1-1" / SUMMARY).unlink()
    (path / "cells" / "rflbat-0.5-0" / RUN).unlink()
    (path / "cells" / "empty").mkdir()
    (path / "cells" / "stray.txt").write_text("not a cell")
    report = report_sweep(path)
    assert report.unfinished == ["empty", "krum-0.1-1", "rflbat-0.5-0"]
    assert "Unfinished runs, not in the table: empty, krum-0.1-1, rflbat-0.5-0\n" in (path / "table.md").read_text()
    assert [row[2] for row in report.table.rows] == ["1", "2", "2", "1"]


def test_many_settings_are_split_over_figures(write_run, tmp_path, unsaved):
    shares = [0.1 * i for i in range(1, 9)]
    path = write_sweep(write_run, tmp_path / "sweep", shares=shares, seeds=1)
    assert [file.name for file in report_sweep(path).files[3:]] == [
        *("sweep_1.png", "sweep_1.pdf"),
        *("sweep_2.png", "sweep_2.pdf"),
        PAGE,
    ]
    assert [len(figure.axes) for figure in unsaved] == [6, 6, 2, 2]


def test_a_sweep_over_one_defense_groups_by_what_varies(write_run, tmp_path, monkeypatch):
    axes = []
    path = write_sweep(write_run, tmp_path / "sweep", defenses=["rflbat"])
    monkeypatch.setattr("rflbat.report.build.draw_sweep_bars", lambda rows, axis: axes.append((len(rows), axis)))
    report_sweep(path)
    assert axes == [(2, "malicious")]


def test_no_sweep_and_no_finished_cell_are_errors(write_run, tmp_path):
    with pytest.raises(UserError, match="not the folder of a sweep"):
        report_sweep(tmp_path)
    write_run(tmp_path / "cells" / "one")
    with pytest.raises(UserError, match="none of the 1 runs"):
        report_sweep(tmp_path)


def test_a_damaged_cell_is_named(write_run, tmp_path):
    path = write_sweep(write_run, tmp_path / "sweep", seeds=1)
    (path / "cells" / "krum-0.5-0" / SUMMARY).write_text(json.dumps({"accuracy": 1})[:-3])
    with pytest.raises(UserError, match=r"krum-0\.5-0.*damaged"):
        report_sweep(path)
