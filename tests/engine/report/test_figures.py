"""The figures are inspected as objects, and written as PNG files whose header is read."""

import struct

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.colors import same_color

from rflbat.report import figure_style, figures, pca_figures
from rflbat.report.tables import SweepRow


def png_size(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def sweep_rows(defenses=("fedavg", "foolsgold", "multikrum", "rflbat"), shares=(0.1, 0.5, 0.9)):
    return [
        SweepRow(
            {"defense": name, "malicious": share},
            3,
            {"accuracy": 0.9 - 0.1 * share, "attack_success_rate": 1.0 if name == "fedavg" else 0.01},
            {"accuracy": 0.02, "attack_success_rate": 0.0},
        )
        for share in shares
        for name in defenses
    ]


def bars(container):
    return [round(bar.get_height(), 6) for bar in container]


def every_figure(run):
    clients, rounds = run.clients(), run.rounds()
    troubled = [record | {"nobody_kept": record["round"] == 3} for record in rounds]
    troubled[0] |= {"malicious": 0}
    strangers = [row | {"client": row["client"] + 21 * row["round"]} for row in clients]
    return {
        "rounds": figures.draw_accuracy_and_attack(troubled),
        "sizes": figures.draw_client_sizes(run.run()["sizes"]),
        "one size": figures.draw_client_sizes([600] * 101),
        "kept": figures.draw_kept_over_rounds(clients),
        "stacked": figures.draw_kept_over_rounds(strangers),
        "one round": figures.draw_kept_over_rounds(clients[:1]),
        "scatter": pca_figures.draw_pca_scatter([row for row in clients if row["round"] == 0]),
        "one place": pca_figures.draw_pca_scatter([row | {"coordinates": [0.0, 0.0]} for row in clients[:3]]),
        "huge": pca_figures.draw_pca_scatter([clients[0] | {"coordinates": [x, -x]} for x in (1e38, -3e37)]),
        "panels": pca_figures.draw_pca_panels(clients),
        "sweep": figures.draw_sweep_bars(sweep_rows()),
        "one bar": figures.draw_sweep_bars(sweep_rows(["rflbat"], [0.1])),
    }


def test_every_figure_is_written_complete_inside_its_frame_and_without_global_state(run, tmp_path):
    before = dict(matplotlib.rcParams)
    for name, figure in every_figure(run).items():
        path = figure_style.save(figure, tmp_path / "deep" / "er" / f"{name}.png")
        width, height = figure.get_size_inches()
        assert png_size(path) == (round(200 * width), round(200 * height)), name
        assert 4 <= width <= 10, name
        assert np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 10, name
        labels = [text for axes in figure.axes for text in axes.get_xticklabels() + axes.get_yticklabels()]
        assert {text.get_fontsize() for text in labels if text.get_text()} == {8}, name
        drawn = figure.get_tightbbox()
        assert drawn.x0 > -0.02, name
        assert drawn.y0 > -0.02, name
        assert drawn.x1 < width + 0.02, name
        assert drawn.y1 < height + 0.02, name
    assert len(list((tmp_path / "deep" / "er").iterdir())) == 12
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


def test_a_picture_that_cannot_be_written_leaves_the_old_one(run, tmp_path, monkeypatch):
    figure = figures.draw_client_sizes([3, 4])
    path = figure_style.save(figure, tmp_path / "sizes.png")
    before = path.read_bytes()
    monkeypatch.setattr(figure, "savefig", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        figure_style.save(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.png*")) == [path]


def test_every_axis_says_what_it_shows(run):
    for name, figure in every_figure(run).items():
        for axes in figure.axes:
            last = axes.get_subplotspec().is_last_row()
            first = axes.get_subplotspec().is_first_col()
            assert axes.get_xlabel() or not last, name
            assert axes.get_ylabel() or not first, name
            if "rate" in axes.get_ylabel().lower():
                assert "(%)" in axes.get_ylabel(), name


# accuracy and attack


def test_rates_are_drawn_in_percent_at_the_evaluated_rounds(run):
    rounds = run.rounds()
    evaluated = [record for record in rounds if record["accuracy"] is not None]
    assert 1 < len(evaluated) < len(rounds)
    axes = figures.draw_accuracy_and_attack(rounds).axes[0]
    accuracy, attack = axes.lines
    assert list(accuracy.get_xdata()) == list(attack.get_xdata()) == [record["round"] for record in evaluated]
    np.testing.assert_allclose(accuracy.get_ydata(), [100 * record["accuracy"] for record in evaluated])
    np.testing.assert_allclose(attack.get_ydata(), [100 * record["attack_success_rate"] for record in evaluated])
    assert [line.get_label() for line in axes.lines] == ["Accuracy", "Attack success rate"]
    assert accuracy.get_linestyle() != attack.get_linestyle()
    assert axes.get_ylim()[0] < 0
    assert axes.get_ylim()[1] > 100


def test_a_run_without_attack_shows_its_accuracy(run):
    rounds = [record | {"attack_success_rate": None, "malicious": 0} for record in run.rounds()]
    assert [line.get_label() for line in figures.draw_accuracy_and_attack(rounds).axes[0].lines] == ["Accuracy"]


def test_the_first_attacked_round_and_lost_rounds_are_marked(run):
    rounds = run.rounds()
    for record in rounds:
        record |= {"malicious": 9 * (record["round"] >= 2), "nobody_kept": record["round"] == 4}
    figure = figures.draw_accuracy_and_attack(rounds)
    marks = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines[2:]}
    assert marks == {"No client kept": [4], "Attack starts": [2, 2]}
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= set(marks)


@pytest.mark.parametrize("rounds", [[], [{"round": 0, "accuracy": None, "attack_success_rate": None}]])
def test_without_an_evaluation_there_is_no_curve(rounds):
    assert figures.draw_accuracy_and_attack(rounds) is None


# client sizes


def test_sizes_are_bars_in_descending_order_and_a_histogram_of_everybody():
    sizes = [5, 900, 33, 33, 120, 7, 64]
    ordered, spread = figures.draw_client_sizes(sizes).axes
    assert ordered.patches[0].get_data().values.tolist() == sorted(sizes, reverse=True)
    assert sum(bar.get_height() for bar in spread.patches) == len(sizes)
    assert ordered.lines[0].get_ydata()[0] == pytest.approx(np.mean(sizes))
    assert "7, mean 166" in ordered.get_title(loc="left")
    assert figures.draw_client_sizes([]) is None


# kept and dropped


def test_every_client_of_every_round_has_its_cell(run):
    clients = run.clients()
    figure = figures.draw_kept_over_rounds(clients)
    image = figure.axes[0].images[0]
    picture = np.asarray(image.get_array())
    assert picture.shape == (21, 5)
    for row in clients:
        label, colour = figures.FATES[row["malicious"], row["kept"]]
        shown = image.cmap(image.norm(picture[row["client"], row["round"]]))
        assert same_color(shown, colour), label
    assert image.get_extent() == [-0.5, 4.5, -0.5, 20.5]


def test_the_legend_gives_the_share_of_each_fate():
    records = [
        {"round": 0, "client": client, "malicious": client >= 4, "kept": client in (0, 1, 2, 5)} for client in range(7)
    ]
    texts = [text.get_text() for text in figures.draw_kept_over_rounds(records).legends[0].get_texts()]
    assert texts == [
        "benign, kept (75.0 %)",
        "benign, dropped (25.0 %)",
        "malicious, dropped (66.7 %)",
        "malicious, kept (33.3 %)",
    ]


def test_who_did_not_take_part_is_white_and_rows_carry_client_numbers():
    records = [
        {"round": number, "client": client, "malicious": False, "kept": True}
        for number, clients in ((3, (10, 30)), (5, (10, 20)))
        for client in clients
    ]
    figure = figures.draw_kept_over_rounds(records)
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[1, 0, 1], [0, 0, 1], [1, 0, 0]])
    label = axes.yaxis.get_major_formatter()
    assert [label(row, None) for row in range(4)] == ["10", "20", "30", ""]
    assert same_color(axes.images[0].cmap(0), "white")


def test_few_participants_of_many_clients_are_stacked():
    records = [
        {"round": number, "client": 100 * number + client, "malicious": client == 1, "kept": client != 1}
        for number in range(4)
        for client in (2, 1, 0)[: max(1, 3 - number)]
    ]
    axes = figures.draw_kept_over_rounds(records).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[1, 3, 1, 1], [3, 1, 0, 0], [1, 0, 0, 0]])
    assert "Participants" in axes.get_ylabel()
    assert figures.draw_kept_over_rounds([]) is None


# the sweep


def test_bars_stand_for_means_and_whiskers_for_deviations():
    figure = figures.draw_sweep_bars(sweep_rows())
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["malicious = 0.1", "malicious = 0.5", "malicious = 0.9"]
    names = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert names == ["fedavg", "foolsgold", "multikrum", "rflbat"]
    for axes, share in zip(figure.axes, (0.1, 0.5, 0.9), strict=True):
        accuracy, attack = (c for c in axes.containers if hasattr(c, "patches"))
        assert bars(accuracy) == pytest.approx([90 - 10 * share] * 4)
        assert bars(attack) == pytest.approx([100, 1, 1, 1])
        whiskers = accuracy.errorbar.lines[2][0].get_segments()
        assert [np.ptp(segment[:, 1]) for segment in whiskers] == pytest.approx([4.0] * 4)
        assert attack.errorbar is None
        assert f"{90 - 10 * share:.1f}" in [text.get_text() for text in axes.texts]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Accuracy", "Attack success rate"]


def test_a_defense_that_is_missing_from_a_panel_leaves_a_gap():
    rows = sweep_rows(shares=(0.1, 0.5))
    del rows[5]
    second = figures.draw_sweep_bars(rows).axes[1]
    accuracy = next(c for c in second.containers if hasattr(c, "patches"))
    assert [round(bar.get_x() + bar.get_width() / 2 + 0.2) for bar in accuracy] == [0, 2, 3]


def test_without_a_second_defense_another_setting_stands_side_by_side():
    rows = sweep_rows(defenses=("rflbat",))
    assert figures.grouping(sweep_rows()) == "defense"
    assert figures.grouping(rows) == "malicious"
    assert figures.grouping([SweepRow({"defense": "rflbat"}, 1, {}, {})]) == "defense"
    figure = figures.draw_sweep_bars(rows, "malicious")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0.1", "0.5", "0.9"]
    assert figure.axes[0].get_title(loc="left") == "defense = rflbat"
    assert figure.axes[0].get_xlabel() == "Malicious"


def test_rates_that_are_missing_are_not_drawn():
    row = SweepRow({"defense": "rflbat"}, 1, {"accuracy": 0.9, "attack_success_rate": None}, {"accuracy": None})
    figure = figures.draw_sweep_bars([row])
    assert [bars(container) for container in figure.axes[0].containers] == [[90.0]]
    assert figures.draw_sweep_bars([SweepRow({"defense": "rflbat"}, 1, {"accuracy": None}, {})]) is None
    assert figures.draw_sweep_bars([]) is None
