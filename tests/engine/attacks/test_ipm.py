"""Inner product manipulation against its definition as loops, and the range of its parameter.

Axes: N clients, D parameters.
"""

import math

import numpy as np
import pytest
import torch

from rflbat.attacks.registry import make_attack
from rflbat.attacks.tampering import send_updates
from rflbat.errors import UserError
from rflbat.testing.formats import IMAGES
from rflbat_kernels.sharding import Shard, sharded

MALICIOUS_N = torch.tensor([False, True, True, False, True, False, False])
D = 63


def updates(dtype=torch.float32):
    return torch.randn(len(MALICIOUS_N), D, generator=torch.Generator().manual_seed(0)).to(dtype)


def tamper(updates_ND, malicious_N=MALICIOUS_N, scale=1.0, **arguments):
    attack = make_attack("ipm", IMAGES[0], scale, arguments)
    return send_updates(attack, updates_ND.clone(), torch.from_numpy(np.flatnonzero(malicious_N)))


def defined(updates_ND, malicious_N, scale, epsilon):
    """The vector that malicious clients send, number by number in float64."""
    rows = [row for row, malicious in zip(updates_ND.tolist(), malicious_N.tolist(), strict=True) if not malicious]
    rows = [row for row in rows if all(map(math.isfinite, row))]
    sent = []
    for column in range(updates_ND.shape[1]):
        total = 0.0
        for row in rows:
            total += row[column]
        sent.append(-scale * epsilon * total / len(rows) if rows else 0.0)
    return torch.tensor(sent, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scale", "epsilon"), [(1.0, 0.1), (1.0, 10), (3.0, 0.5), (-2.0, 0.5), (0.0, 0.5)])
@pytest.mark.parametrize("bad", [{}, {0: math.nan, 3: -math.inf, 2: math.nan}])
def test_malicious_clients_send_the_negated_mean_of_the_finite_benign_updates(dtype, scale, epsilon, bad):
    before_ND = updates(dtype)
    for row, value in bad.items():
        before_ND[row, row] = value
    sent_ND = tamper(before_ND, scale=scale, epsilon=epsilon)
    wanted_D = defined(before_ND, MALICIOUS_N, scale, epsilon).to(dtype)
    for sent_D in sent_ND[MALICIOUS_N]:
        torch.testing.assert_close(sent_D, wanted_D)


def test_epsilon_is_a_half_unless_told():
    assert torch.equal(tamper(updates()), tamper(updates(), epsilon=0.5))


def test_a_large_epsilon_turns_the_mean_of_all_updates_around():
    """With m of n clients malicious: beyond ``(n - m) / m``."""
    benign_D = updates(torch.float64)[~MALICIOUS_N].mean(0)
    for epsilon, sign in ((1.3, 1), (1.4, -1)):
        assert torch.sign(tamper(updates(torch.float64), epsilon=epsilon).mean(0) @ benign_D) == sign


@pytest.mark.parametrize("malicious", [[True] * 7, [True, True, True, True, True, True, False]])
def test_without_a_finite_benign_update_malicious_clients_send_zeros(malicious):
    before_ND, malicious_N = updates(), torch.tensor(malicious)
    before_ND[6, 0] = math.nan
    assert (tamper(before_ND, malicious_N)[malicious_N] == 0).all()


def test_a_row_that_is_not_finite_in_another_shard_does_not_count():
    before_ND = updates()
    before_ND[0, 5], before_ND[3, 50] = math.nan, math.inf
    whole_ND = tamper(before_ND)
    finite_N = before_ND.isfinite().all(1)
    for start, stop in ((0, 20), (20, 40), (40, D)):
        with sharded(Shard(start, stop - start, D, lambda part_N, how: part_N & finite_N)):
            part_ND = tamper(before_ND[:, start:stop])
        torch.testing.assert_close(part_ND, whole_ND[:, start:stop], equal_nan=True)


def test_it_poisons_no_data():
    attack = make_attack("ipm", IMAGES[0], 1.0, {})
    assert attack.poison_fraction == 0
    x = torch.rand(3, 1, 28, 28)
    for trigger in (attack.full_trigger, *attack.local_triggers):
        assert torch.equal(trigger(x.clone(), torch.ones(3, dtype=torch.bool)), x)


def test_it_reads_other_rows():
    """Text models therefore train the whole embedding, but the columns may be sharded."""
    attack = make_attack("ipm", IMAGES[0], 1.0, {})
    assert (attack.row_wise, attack.needs_all_columns) == (False, False)


@pytest.mark.parametrize("epsilon", [0.0, -0.5, "nan", "inf"])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(UserError) as caught:
        tamper(updates(), epsilon=epsilon)
    assert str(caught.value) == (f"attack 'ipm': epsilon={epsilon} is out of range; allowed: finite numbers above 0")
