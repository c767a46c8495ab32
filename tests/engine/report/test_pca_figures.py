from collections import Counter

import numpy as np
import pytest
from matplotlib.colors import same_color

from rflbat.report import figure_style, pca_figures


def drawn_points(axes):
    return sum(len(group.get_offsets()) for group in axes.collections)


def test_every_client_with_coordinates_is_a_point(run):
    clients = [row for row in run.clients() if row["round"] == 1]
    figure = pca_figures.draw_pca_scatter(clients)
    (axes,) = figure.axes
    located = [row for row in clients if row["coordinates"] is not None]
    assert drawn_points(axes) == len(located) == len(clients) - 1
    expected = {}
    for row in located:
        expected.setdefault((row["malicious"], row["stage"]), []).append(row["coordinates"])
    assert len(axes.collections) == len(expected) >= 3
    for group in axes.collections:
        points = group.get_offsets().tolist()
        [(malicious, stage)] = [key for key, value in expected.items() if value == points]
        colour = figure_style.MALICIOUS if malicious else figure_style.BENIGN
        assert same_color(group.get_facecolor()[0][:3], colour), stage
    points = np.array([row["coordinates"] for row in located])
    low, high = points.min(0), points.max(0)
    assert axes.get_xlim()[0] < low[0] < high[0] < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < low[1] < high[1] < axes.get_ylim()[1]
    assert np.ptp(axes.get_xlim()) == pytest.approx(np.ptp(axes.get_ylim()))


def test_the_legend_names_truth_and_stage(run):
    figure = pca_figures.draw_pca_scatter([row for row in run.clients() if row["round"] == 0])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:5] == ["benign", "malicious", "kept", "dropped: filter 1", "dropped: cluster"]
    assert texts[-1] == "(1 not drawn:\nno coordinates)"
    markers = [handle.get_marker() for handle in figure.legends[0].legend_handles]
    stages = markers[2:-1]
    assert len(set(stages)) == len(stages)


def test_stages_of_other_defenses_get_markers_of_their_own():
    names = ["kept", "krum", "norm", "zeta", "filter1"]
    rows = [
        {"round": 0, "client": i, "malicious": i == 1, "stage": name, "coordinates": [float(i), 0.0]}
        for i, name in enumerate(names)
    ]
    figure = pca_figures.draw_pca_scatter(rows)
    handles = {handle.get_label(): handle.get_marker() for handle in figure.legends[0].legend_handles[2:]}
    assert list(handles) == ["kept", "dropped: filter 1", "dropped: krum", "dropped: norm", "dropped: zeta"]
    assert len(set(handles.values())) == 5
    assert drawn_points(figure.axes[0]) == 5


@pytest.mark.parametrize("coordinates", [None, [None, None], [0.5, None]])
def test_without_coordinates_there_is_no_plane(run, coordinates):
    clients = [row | {"coordinates": coordinates} for row in run.clients()]
    assert pca_figures.draw_pca_scatter(clients) is None
    assert pca_figures.draw_pca_panels(clients) is None
    assert pca_figures.draw_pca_scatter([]) is None


def test_an_update_that_was_not_finite_has_no_place_in_the_plane(run):
    clients = [row | {"coordinates": row["coordinates"] or [0.0, 0.0]} for row in run.clients() if row["round"] == 2]
    stages = Counter(row["stage"] for row in clients)
    assert stages["nonfinite"] == 1
    assert drawn_points(pca_figures.draw_pca_scatter(clients).axes[0]) == len(clients) - 1


@pytest.mark.parametrize(("rounds", "shown"), [([4], [4]), ([4, 9], [4, 9]), ([0, 1, 2, 7, 9], [0, 2, 9])])
def test_panels_are_the_first_middle_and_last_round_with_coordinates(run, rounds, shown):
    template = [row for row in run.clients() if row["round"] == 0]
    clients = [row | {"round": number} for number in rounds for row in template]
    clients += [row | {"round": 99, "coordinates": None} for row in template]
    figure = pca_figures.draw_pca_panels(clients)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"Round {number}" for number in shown]
    assert [drawn_points(axes) for axes in figure.axes] == [20] * len(shown)
    assert len(figure.legends) == 1
