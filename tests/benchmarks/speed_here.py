"""Rows of a case of the speed benchmark, measured in this process with rates that are given."""

from benchmarks.speed import fresh
from benchmarks.speed.measure import Rates
from benchmarks.speed.runner import Options, measure

RATES = Rates(
    "W1", 1, "cpu", "3", "2", "2", read=1e9, copy=2e9, matrix_torch=1e9, matrix_numpy=4e9, convolution=1.0, imported=1
)
TWICE = Options(threads=(1,), repeats=2)


def rows_by_contender(case, folder, options=TWICE):
    fresh.expectation(case.name, folder, 1)
    return {row.contender: row for row in measure(case, 1, options, RATES, folder)}
