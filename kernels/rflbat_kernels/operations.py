"""Public entry points: each call runs the implementation that ``using`` selected, by default that of "auto".

Operations that sum over columns all-reduce their result when ``sharded`` declares that the columns are split over
several processes.
"""

import torch

from rflbat_kernels.dispatch import dispatched
from rflbat_kernels.gram import torch as _gram
from rflbat_kernels.gram.base import Gram
from rflbat_kernels.hdbscan import sklearn as _hdbscan
from rflbat_kernels.kmeans import torch as _kmeans
from rflbat_kernels.lstm_cell import torch as _lstm_cell
from rflbat_kernels.median import torch as _median
from rflbat_kernels.order import torch as _order
from rflbat_kernels.order import two_means as _two_means
from rflbat_kernels.pairwise import torch as _pairwise
from rflbat_kernels.pca import torch as _pca
from rflbat_kernels.sharding import all_reduce, reduced_over_shards

partial_gram = dispatched("gram", _gram.gram)
"""Gram matrix of this process's columns only. Callers that add several of them run one ``all_reduce`` on the sum."""


def _all_of(part: Gram) -> Gram:
    return Gram(*all_reduce(torch.stack(part)))


gram = reduced_over_shards(partial_gram, _all_of)
finite_rows = reduced_over_shards(
    dispatched("finite_rows", _gram.finite_rows), lambda part_N: all_reduce(part_N, "min")
)
distances_to_sum = reduced_over_shards(
    dispatched("distances_to_sum", _gram.distances_to_sum), lambda part_N: all_reduce(part_N.square()).sqrt()
)
inner_products = reduced_over_shards(dispatched("inner_products", _gram.inner_products), all_reduce)
minority_counts = reduced_over_shards(_two_means.minority_counts, all_reduce)
weighted_sum = dispatched("weighted_sum", _gram.weighted_sum)
squared_distances = dispatched("pairwise", _pairwise.squared_distances)
distance_sums = dispatched("distance_sums", _pairwise.distance_sums)
masked_median = dispatched("median", _median.masked_median)
column_median = dispatched("column_median", _order.column_median)
column_trimmed_mean = dispatched("column_trimmed_mean", _order.column_trimmed_mean)
column_central_mean = dispatched("column_central_mean", _order.column_central_mean)
column_two_means = dispatched("column_two_means", _order.column_two_means)
kmeans = dispatched("kmeans", _kmeans.kmeans)
hdbscan = dispatched("hdbscan", _hdbscan.hdbscan)
lstm_cell = dispatched("lstm_cell", _lstm_cell.lstm_cell)
lstm_cell_backward = dispatched("lstm_cell_backward", _lstm_cell.lstm_cell_backward)
pca = dispatched("pca", _pca.pca)
pca_lowrank = dispatched("pca_lowrank", _pca.pca_lowrank)
