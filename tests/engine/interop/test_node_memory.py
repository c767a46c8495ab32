"""Memory by node: nodes that come late, stay away or come back are judged by what they themselves have sent."""

import numpy as np
import pytest
import torch

from rflbat import UserError, aggregate
from rflbat.interop.node_memory import NodeMemory

TURNS = [(40, 10, 30), (30, 20, 40), (10, 50, 20, 30), (50, 40, 10)]
"""Ids of the nodes that reply in each round, in the order of their rows."""


def updates(turn: int, nodes: tuple[int, ...]) -> torch.Tensor:
    """The higher its id, the more a node pushes the way that all push."""
    own_ND = np.random.default_rng(turn).normal(size=(6, 30))
    all_ND = own_ND + np.arange(6)[:, None] * np.random.default_rng(99).normal(size=30) / 4
    return torch.from_numpy(all_ND[[node // 10 for node in nodes]].astype(np.float32))


def test_foolsgold_remembers_each_node() -> None:
    """Against FoolsGold of this round alone on sums that are kept here: its memory is a sum by client."""
    memory, sums = NodeMemory("foolsgold", {}, 0, None), {node: torch.zeros(30) for node in (10, 20, 30, 40, 50)}
    for turn, nodes in enumerate(TURNS):
        sent_ND = updates(turn, nodes)
        decision = memory.judge(nodes, sent_ND, [1] * len(nodes), turn)
        for node, row_D in zip(nodes, sent_ND, strict=True):
            sums[node] = sums[node] + row_D
        wanted = aggregate(torch.stack([sums[node] for node in nodes]), "foolsgold", memory=False)
        torch.testing.assert_close(decision.weights, wanted.weights, rtol=1e-6, atol=1e-9)
        forgetful = aggregate(sent_ND, "foolsgold", memory=False)
        assert turn == 0 or not torch.allclose(decision.weights, forgetful.weights)
    assert sorted(memory.rows) == [10, 20, 30, 40, 50]
    assert sorted(memory.rows.values()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("defense", ["fedavg", "rflbat", "median", "krum", "rfa"])
def test_without_memory_a_round_is_that_of_aggregate(defense: str) -> None:
    sent_ND = torch.from_numpy(np.random.default_rng(3).normal(size=(8, 30)))
    decision = NodeMemory(defense, {}, 0, None).judge(range(8), sent_ND, list(range(1, 9)), 0)
    wanted = aggregate(sent_ND, defense, sizes=range(1, 9))
    torch.testing.assert_close(decision.update, wanted.update, rtol=0, atol=0)
    assert decision.kept.tolist() == wanted.kept.tolist()


def test_clean_updates_are_learnt_once() -> None:
    clean_MD = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 30)))
    sent_ND = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 30)))
    sent_ND[4] += 50.0
    memory = NodeMemory("autoencoder", {}, 0, clean_MD)
    wanted = aggregate(sent_ND, "autoencoder", clean=clean_MD)
    decision = memory.judge(range(6), sent_ND, [1] * 6, 0)
    assert decision.kept.tolist() == wanted.kept.tolist()
    assert not decision.kept[4]
    with pytest.raises(UserError, match="pass clean="):
        NodeMemory("autoencoder", {}, 0, None)
    with pytest.raises(UserError, match="omit clean="):
        NodeMemory("median", {}, 0, clean_MD)
