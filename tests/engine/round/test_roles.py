"""Who takes part in a round, and who of them attacks.

Legend of the suffixes: N clients of the round.
"""

import numpy as np
import pytest

from rflbat.experiment.config import Experiment
from rflbat.round.draws import draw_clients, draw_roles


def small(**settings):
    return Experiment(**{"clients": 13, "defense": "fedavg", **settings})


# Who takes part.


@pytest.mark.parametrize("participants", [None, 13])
def test_by_default_everybody_takes_part(participants):
    assert draw_clients(small(participants=participants), 3).tolist() == list(range(13))


def test_participants_are_drawn_anew_for_each_round():
    experiment = small(clients=101, participants=7)
    drawn = [draw_clients(experiment, number) for number in range(60)]
    for ids_N in drawn:
        assert len(ids_N) == 7
        assert (np.diff(ids_N) > 0).all()
        assert ids_N[0] >= 0
        assert ids_N[-1] < 101
    assert len({tuple(ids_N) for ids_N in drawn}) == 60
    assert len(set(np.concatenate(drawn))) > 90  # 420 draws of 101: 99.5 are seen on average
    np.testing.assert_array_equal(draw_clients(experiment, 5), drawn[5])


@pytest.mark.parametrize("other", [{"malicious": 0.9}, {"defense": "krum"}, {"roles": "fixed"}, {"attack_start": 9}])
def test_participants_depend_on_no_role(other):
    for number in range(5):
        drawn = draw_clients(small(participants=5), number)
        np.testing.assert_array_equal(drawn, draw_clients(small(participants=5, **other), number))


# Who attacks.


@pytest.mark.parametrize("roles", ["redrawn", "fixed"])
@pytest.mark.parametrize(
    ("clients", "share", "count"),
    [
        (13, 0.5, 7),
        (13, 0.1, 1),
        (13, 0.03, 0),
        (13, 1.0, 13),
        (13, 0.0, 0),
        (100, 0.29, 29),
        (101, 0.5, 51),
        (1, 0.5, 1),
    ],
)
def test_the_nearest_number_to_the_share_attacks(roles, clients, share, count):
    experiment = small(clients=clients, malicious=share, roles=roles)
    for number in range(5):
        malicious_N = draw_roles(experiment, number, np.arange(clients))
        assert malicious_N.dtype == bool
        assert malicious_N.shape == (clients,)
        assert malicious_N.sum() == count


@pytest.mark.parametrize(("participants", "count"), [(5, 3), (6, 3), (7, 4), (1, 1)])
def test_redrawn_roles_are_a_share_of_the_round(participants, count):
    experiment = small(clients=101, participants=participants, malicious=0.5)
    for number in range(9):
        assert draw_roles(experiment, number, draw_clients(experiment, number)).sum() == count


def test_redrawn_roles_differ_between_rounds():
    experiment = small(clients=21, malicious=0.5)
    drawn = {tuple(draw_roles(experiment, number, np.arange(21))) for number in range(20)}
    assert len(drawn) == 20


def test_fixed_roles_stay_with_the_client():
    experiment = small(clients=101, participants=11, malicious=0.5, roles="fixed")
    everybody_N = draw_roles(experiment, 0, np.arange(101))
    counts = set()
    for number in range(20):
        ids_N = draw_clients(experiment, number)
        malicious_N = draw_roles(experiment, number, ids_N)
        np.testing.assert_array_equal(malicious_N, everybody_N[ids_N])
        counts.add(int(malicious_N.sum()))
    assert len(counts) > 3  # the share of a round is left to the draw of its participants


@pytest.mark.parametrize("roles", ["redrawn", "fixed"])
def test_nobody_attacks_before_the_start(roles):
    late, early = small(attack_start=3, roles=roles), small(roles=roles)
    for number in range(6):
        expected_N = draw_roles(early, number, np.arange(13)) & (number >= 3)
        np.testing.assert_array_equal(draw_roles(late, number, np.arange(13)), expected_N)
