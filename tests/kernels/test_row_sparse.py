"""Row-sparse updates against the oracles of the dense matrix that they stand for.

Axes: N updates, D parameters, W words, E numbers of a word.
"""

import pytest
import torch

from rflbat.clients.row_sparse import touched_rows
from rflbat.models.base import Model
from rflbat.parameters import Layout
from rflbat_kernels import RowSparse, gram, row_sparse_gram, row_sparse_weighted_sum, squared_distances, weighted_sum
from rflbat_kernels.row_sparse import torch as by_torch
from tests.kernels.closeness import assert_near, normal
from tests.oracles import kernels as oracle

WIDTH = 3
FRONT, BEHIND = {"front": (2, 2)}, {"behind": (5,)}
LAYOUTS = {
    "table first": lambda words: {"table": (words, WIDTH), **BEHIND},
    "table last": lambda words: {**FRONT, "table": (words, WIDTH)},
    "table between": lambda words: {**FRONT, "table": (words, WIDTH), **BEHIND},
    "table alone": lambda words: {"table": (words, WIDTH)},
}
TOUCHED = {
    "nobody meets": [[0, 1], [2, 5, 6], [8], [7, 9], [3]],
    "pairs and crowds": [[0, 1, 4], [1, 4], [4, 8, 9], [4, 1, 9, 0, 2], [7], [9, 4, 3]],
    "all the same": [[1, 3], [3, 1], [1, 3], [1, 3]],
    "one alone": [[2, 4]],
    "two": [[2, 4], [2]],
    "every word": [list(range(10))] * 3,
    "one long, the others short": [list(range(10)), [3], [4], [5], [0]],
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_touch = pytest.mark.parametrize("touched", TOUCHED)
types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def dense_updates(layout: str, touched: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, Model]:
    """Random updates that are 0 in the words that are not touched; the words' model."""
    model = Model("words", Layout(LAYOUTS[layout](10)), lambda stream: None, lambda parameters, x: x, embedding="table")
    matrix_ND = normal(len(TOUCHED[touched]), model.layout.size, dtype=dtype) + 0.5
    table_NWE = model.layout.views(matrix_ND)["table"]
    for row, words in enumerate(TOUCHED[touched]):
        table_NWE[row, [word for word in range(10) if word not in words]] = 0
    return matrix_ND, model


def stored(matrix_ND: torch.Tensor, model: Model, touched: str) -> RowSparse:
    """The same updates, row-sparse; what pads them is no 0."""
    longest = max(map(len, TOUCHED[touched]))
    tokens = torch.tensor([(words * longest)[:longest] for words in TOUCHED[touched]])
    table = touched_rows(model, lambda rows, step: (tokens[rows, None], tokens, tokens), len(tokens), 1)
    stop = table.first + 10 * WIDTH
    table_NWE = model.layout.views(matrix_ND)["table"]
    rows = []
    for row, own in enumerate(table.own_NR.tolist()):
        words = [table_NWE[row, word] if word < 10 else torch.full((WIDTH,), 7.0) for word in own]
        kept = [matrix_ND[row, : table.first], table_NWE[row, table.common_M].flatten(), *words, matrix_ND[row, stop:]]
        rows.append(torch.cat([each.to(matrix_ND.dtype) for each in kept]))
    return RowSparse(torch.stack(rows), table)


@types
@every_layout
@every_touch
def test_written_out_it_is_the_dense_matrix(layout: str, touched: str, dtype: torch.dtype) -> None:
    matrix_ND, model = dense_updates(layout, touched, dtype)
    updates = stored(matrix_ND, model, touched)
    assert updates.columns == matrix_ND.shape[1]
    assert torch.equal(updates.dense(), matrix_ND)


@every_touch
def test_a_word_is_stored_for_all_where_half_of_them_have_it(touched: str) -> None:
    updates = stored(*dense_updates("table between", touched), touched)
    given = [set(words) for words in TOUCHED[touched]]
    common = {word for word in range(10) if 2 * sum(word in words for words in given) >= len(given)}
    assert set(updates.touched.common_M.tolist()) == common
    own = [{word for word in row if word < 10} for row in updates.touched.own_NR.tolist()]
    assert own == [words - common for words in given]
    assert updates.own_rows().shape[1] == max(map(len, own))
    grouped = sorted(
        (word, client)
        for group in updates.touched.shared
        for word, clients in zip(group.word_G.tolist(), group.client_GC.tolist(), strict=True)
        for client in clients
    )
    assert grouped == sorted((word, client) for client, words in enumerate(own) for word in words)


@types
@every_layout
@every_touch
def test_equals_the_oracle(layout: str, touched: str, dtype: torch.dtype) -> None:
    matrix_ND, model = dense_updates(layout, touched, dtype)
    updates = stored(matrix_ND, model, touched)
    centred, raw = oracle.gram(matrix_ND)
    got = row_sparse_gram(updates)
    assert_near(got.raw_NN, raw, 1e-14)
    assert torch.allclose(got.centred_NN, torch.from_numpy(centred), rtol=0, atol=1e-14 * raw.max())
    assert_near(squared_distances(got.anchored_NN) + raw.max(), oracle.squared_distances(matrix_ND) + raw.max(), 1e-14)
    assert all(torch.equal(each, each.T) for each in got)
    weights = normal(len(matrix_ND), seed=1)
    summed = row_sparse_weighted_sum(weights, updates)
    assert summed.dtype == dtype
    torch.testing.assert_close(
        summed.double(), torch.from_numpy(oracle.weighted_sum(weights, matrix_ND)), rtol=0, atol=3e-7
    )
    torch.testing.assert_close(summed, weighted_sum(weights, matrix_ND), rtol=1e-15, atol=1e-7)


@every_touch
def test_the_three_origins_are_those_of_the_dense_matrix(touched: str) -> None:
    matrix_ND, model = dense_updates("table between", touched)
    for got, wanted in zip(row_sparse_gram(stored(matrix_ND, model, touched)), gram(matrix_ND), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-14, atol=1e-13)


@types
@every_touch
@pytest.mark.parametrize("fill", [torch.nan, torch.inf])
def test_invalid_updates_leak_nothing(touched: str, dtype: torch.dtype, fill: float) -> None:
    matrix_ND, model = dense_updates("table between", touched, dtype)
    valid_N = torch.arange(len(matrix_ND)) % 3 != 1
    alone = gram(matrix_ND[valid_N])
    updates = stored(matrix_ND, model, touched)
    updates.matrix_NQ[~valid_N] = fill
    got = row_sparse_gram(updates, valid_N)
    for name in ("raw_NN", "centred_NN"):
        here_NN = getattr(got, name)
        torch.testing.assert_close(here_NN[valid_N][:, valid_N], getattr(alone, name), rtol=1e-13, atol=1e-13)
        assert (here_NN[~valid_N] == 0).all()
        assert (here_NN[:, ~valid_N] == 0).all()
    weights_N = torch.where(valid_N, 0.5, 0.0)
    expected_D = torch.from_numpy(oracle.weighted_sum(weights_N, matrix_ND)).to(dtype)
    torch.testing.assert_close(row_sparse_weighted_sum(weights_N, updates), expected_D, rtol=1e-6, atol=1e-6)


def test_blocks_of_words_change_only_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    touched = "pairs and crowds"
    matrix_ND, model = dense_updates("table between", touched)
    updates = stored(matrix_ND, model, touched)
    whole, summed = row_sparse_gram(updates), row_sparse_weighted_sum(normal(6), updates)
    monkeypatch.setattr(by_torch, "_CACHED_BYTES", 1)
    for got, wanted in zip(row_sparse_gram(updates), whole, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-14, atol=1e-14)
    assert torch.equal(row_sparse_weighted_sum(normal(6), updates), summed)


def test_a_far_update_blinds_no_other_pair() -> None:
    touched = "pairs and crowds"
    matrix_ND, model = dense_updates("table between", touched, torch.float32)
    matrix_ND[3] *= 1e37
    truth_NN = torch.from_numpy(oracle.gram(matrix_ND)[1])
    got_NN = row_sparse_gram(stored(matrix_ND, model, touched)).raw_NN
    lengths_N = truth_NN.diagonal().sqrt()
    assert ((got_NN - truth_NN).abs() <= 1e-14 * lengths_N[:, None] * lengths_N[None, :]).all()


def test_mistakes_are_refused() -> None:
    updates = stored(*dense_updates("table first", "two"), "two")
    with pytest.raises(ValueError, match="the mask is"):
        row_sparse_gram(updates, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"weights have shape \(3,\); allowed: \(2,\)"):
        row_sparse_weighted_sum(torch.ones(3), updates)
