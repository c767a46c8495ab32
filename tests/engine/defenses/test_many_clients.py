"""Rounds of so many clients that the N x N steps decide: the same answers as below, in bounded memory."""

import pytest
import torch

from rflbat import aggregate
from rflbat.aggregate import Decision
from rflbat_kernels import using
from rflbat_kernels.pca.reference import LARGE

CLIENTS, PARAMETERS = LARGE + 26, 120


def updates(kind: str) -> torch.Tensor:
    stream = torch.Generator().manual_seed(7)
    noise = torch.randn(CLIENTS, PARAMETERS, generator=stream)
    if kind == "attacked":
        noise[: CLIENTS // 3, :40] = 0.3 * noise[: CLIENTS // 3, :40] + 1.5
    elif kind == "groups":
        noise += 2 * torch.randn(10, PARAMETERS, generator=stream)[torch.arange(CLIENTS) % 10]
    elif kind == "outliers":
        noise[::200] *= 300
    return noise


def decided(kind: str, solver: str) -> Decision:
    with using({"pca": solver}):
        return aggregate(updates(kind), "rflbat")


@pytest.mark.parametrize("kind", ["attacked", "groups", "outliers", "noise"])
def test_many_clients_are_judged_as_by_the_exact_decomposition(kind: str) -> None:
    found, exact = decided(kind, "auto"), decided(kind, "eigh")
    assert torch.equal(found.kept, exact.kept)
    assert 0 < int(found.kept.sum()) < CLIENTS
    for name in ("stage", "cluster", "clusters"):
        assert torch.equal(found.trace[name], exact.trace[name])
    torch.testing.assert_close(found.trace["coordinates"], exact.trace["coordinates"], rtol=1e-6, atol=1e-6)
    assert not torch.equal(found.trace["coordinates"], exact.trace["coordinates"])  # another way was taken
    assert torch.equal(found.update, exact.update)
