"""Content of the pages: every part that has records, data that cannot break out, and a bounded size."""

import json
import re

import numpy as np
import pytest

from rflbat.errors import UserError
from rflbat.report import build, page
from rflbat.report.figure_style import BENIGN, MALICIOUS
from rflbat.report.figures import FATES
from rflbat.report.run_page import run_page
from rflbat.report.sweep_page import LINES
from rflbat.storage.run_folder import CLIENTS, SUMMARY
from tests.engine.report.test_report import write_sweep

MACHADO = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Simulated linear RGB: Machado, Oliveira and Fernandes 2009, severity 1."""


def read(path):
    text = path.read_text()
    return text, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def sections(text):
    return re.findall(r'<section id="(\w+)"', text)


def test_a_run_s_page_has_a_part_for_everything_that_is_recorded(run):
    text, data = read(run_page(run))
    assert sections(text) == ["curves", "plane", "fates", "detection", "settings"]
    assert [part["round"] for part in data["clients"]] == [0, 1, 2, 3, 4]
    rows = [row for row in run.clients() if row["round"] == 3]
    part = data["clients"][3]
    assert part["client"] == [row["client"] for row in rows]
    assert [data["stages"][stage]["name"] for stage in part["stage"]] == [row["stage"] for row in rows]
    for row, x, y in zip(rows, part["x"], part["y"], strict=True):
        if row["stage"] == "nonfinite":
            assert x is None
        else:
            assert (x, y) == pytest.approx(row["coordinates"], rel=1e-4)
    fates = data["fates"]
    for row in rows:
        fate = list(FATES)[fates["z"][fates["clients"].index(row["client"])][3] - 1]
        assert fate == (row["malicious"], row["kept"])


def test_shadows_get_a_part_and_a_choice(run):
    for number in range(5):
        rates = {"precision": 0.5, "recall": 1.0, "false_positive_rate": 0.1, "malicious_weight": 0.25}
        run.append_shadows(
            [{"round": number, "defense": "krum", **rates, "kept": [number], "attack_success_rate": 0.1}]
        )
    text, data = read(run_page(run))
    assert "shadows" in sections(text)
    assert data["shadow_names"] == ["krum"]
    assert [part["shadows"]["krum"] for part in data["clients"]] == [[0], [1], [2], [3], [4]]
    assert {line["name"] for line in data["shadow_lines"]} == {"rflbat (this run)", "krum"}
    assert "<td>krum</td>" in text


def test_parts_without_records_are_left_out(run):
    clients = [row | {"coordinates": None} for row in run.clients()]
    (run.path / CLIENTS).unlink()
    run.append_clients(clients)
    assert sections(read(run_page(run))[0]) == ["curves", "fates", "detection", "settings"]


def test_one_coordinate_lies_on_the_axis(run):
    clients = [row | {"coordinates": row["coordinates"] and row["coordinates"][:1]} for row in run.clients()]
    (run.path / CLIENTS).unlink()
    run.append_clients(clients)
    _, data = read(run_page(run))
    assert {y for part in data["clients"] for y in part["y"]} == {0.0, None}


def test_text_of_a_run_cannot_become_markup(write_run, tmp_path):
    evil = "</script><script>alert(1)</script>"
    folder = write_run(tmp_path / "run", rounds=1, clients=5, defense=evil, attack=evil)
    text, data = read(run_page(folder))
    assert "<script>alert" not in text
    assert data["defense"] == evil


def test_the_page_needs_no_network(run):
    text, _ = read(run_page(run))
    without_plotly = text.replace(page.plotly_source(), "")
    assert len(without_plotly) < len(text) - 4_000_000
    assert not re.search(r"(?:src|href)\s*=|https?://|@import|url\(", without_plotly)
    assert "default-src 'none'" in text


def test_a_hundred_rounds_of_a_hundred_clients_stay_below_8_megabytes(write_run, tmp_path):
    folder = write_run(tmp_path / "run", rounds=100, clients=100, every=1)
    assert run_page(folder).stat().st_size < 8e6


def test_a_sweep_s_page_links_to_pages_that_exist(write_run, tmp_path):
    path = write_sweep(write_run, tmp_path / "sweep, of=two")
    made = build.report_sweep(path)
    assert made.files[-1] == path / "report.html"
    text, data = read(made.files[-1])
    assert sections(text) == ["bars", "bands", "table", "runs"]
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', text)
    assert len(links) == 8
    for href, name in links:
        linked = (path / "cells" / name / "report.html").read_text()
        assert href == f"cells/{name}/report.html"
        assert '<script src="../../plotly.min.js"></script>' in linked
        assert len(linked) < 200_000
    assert (path / "plotly.min.js").stat().st_size > 4e6
    [bar, attack] = data["bars"]
    assert bar["labels"] == [[f"malicious = {share}" for share in (0.1, 0.1, 0.5, 0.5)], ["krum", "rflbat"] * 2]
    assert bar["mean"] == pytest.approx([0.885, 0.885, 0.845, 0.845])
    assert attack["mean"] == [0.1, 0.1, 0.5, 0.5]
    [band] = [each for each in data["bands"] if (each["name"], each["setting"]) == ("krum", "malicious = 0.5")]
    assert (band["seeds"], band["rounds"]) == (2, [0])
    assert band["accuracy"]["mean"] == [pytest.approx(0.3)]


def test_without_its_packages_the_page_is_left_out_and_named(run, monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "save", lambda figure, path: path)
    assert "report.html" not in [file.name for file in build.report_run(run.path)]
    with pytest.raises(UserError, match=r"rflbat\[report\]"):
        run_page(run)


def test_a_damaged_summary_is_an_error(run):
    (run.path / SUMMARY).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run_page(run)


def lab(colour, sight):
    """CIE L*a*b* of a colour as seen with this colour vision."""
    srgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if sight in MACHADO:
        linear = np.clip(np.array(MACHADO[sight]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 1e-3))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", ["trichromacy", *MACHADO])
def test_colours_that_carry_meaning_can_be_told_apart(sight):
    groups = [[BENIGN, MALICIOUS], [colour for _, colour in FATES.values()], [look[0] for look in LINES[:4]]]
    for colours in groups:
        for at, colour in enumerate(colours):
            for other in colours[:at]:
                assert np.linalg.norm(lab(colour, sight) - lab(other, sight)) > 15, (colour, other)


def test_each_defense_of_a_sweep_has_a_look_of_its_own():
    assert len({look[0] for look in LINES}) == len({look[2] for look in LINES}) == len(LINES)
