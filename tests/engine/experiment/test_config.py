"""The configuration: its defaults, and all that it refuses, in one line that names the setting and the value."""

import json
import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rflbat.attacks.registry import ATTACKS
from rflbat.clients.backend import BACKENDS
from rflbat.clients.registry import OPTIMIZERS
from rflbat.data.registry import DATASETS, PARTITIONS
from rflbat.defenses.registry import DEFENSES
from rflbat.errors import UserError
from rflbat.experiment.config import DEVICES, ROLES, Experiment
from rflbat.models.registry import MODELS

NAMES = {
    "dataset": DATASETS,
    "model": MODELS,
    "attack": ATTACKS,
    "defense": DEFENSES,
    "partition": PARTITIONS,
    "roles": ROLES,
    "device": DEVICES,
    "backend": BACKENDS,
    "optimizer": OPTIMIZERS,
}
COUNTS = ("clients", "rounds", "local_steps", "batch_size", "eval_every", "checkpoint_every", "participants", "chunk")
FRACTIONS = ("alpha", "malicious", "scale", "lr", "momentum", "weight_decay", "server_lr")
OUT_OF_RANGE = [
    *[(name, 0) for name in COUNTS],
    *[(name, -1) for name in (*COUNTS, "attack_start", "target", "alpha", "lr", "server_lr", "weight_decay")],
    *[(name, 0.0) for name in ("alpha", "lr", "server_lr")],
    *[(name, 1e39) for name in ("lr", "server_lr", "weight_decay", "scale")],
    ("scale", -1e39),
    *[(name, bad) for name in FRACTIONS for bad in (math.nan, math.inf, -math.inf)],
    *[("malicious", bad) for bad in (-0.01, 1.01)],
    *[("momentum", bad) for bad in (-0.01, 1.0)],
    *[("clip_norm", bad) for bad in (0.0, -1.0)],
]
WRONG_TYPE = [
    *[(name, bad) for name in COUNTS for bad in (1.5, True, [1], "many", "1.5", "nan")],
    *[(name, bad) for name in FRACTIONS for bad in (True, [0.1], {}, "many", "")],
    *[(name, bad) for name in NAMES for bad in (3, ["iid"], True)],
    *[(name, bad) for name in ("defense_args", "attack_args", "kernels") for bad in (3, "clusters=2", ["clusters"])],
    ("rounds", None),
    ("dataset", None),
]


def refused(**settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        Experiment.from_dict(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_the_paper_s_on_mnist() -> None:
    told = Experiment()
    assert (told.clients, told.participants, told.rounds) == (100, None, 50)
    assert (told.local_steps, told.batch_size, told.lr) == (10, 60, 0.1)
    assert (told.momentum, told.weight_decay, told.server_lr) == (0.0, 0.0, 1.0)
    assert (told.roles, told.attack_start, told.scale) == ("redrawn", 0, 1.0)
    assert (told.partition, told.attack, told.defense) == ("iid", None, "rflbat")


def test_momentum_belongs_to_sgd() -> None:
    assert refused(optimizer="adam", momentum=0.9) == "momentum=0.9 belongs to optimizer='sgd', not to 'adam'"
    assert Experiment(optimizer="adam").client_optimizer.name == "adam"


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Experiment().rounds = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Experiment("digits")  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    texts = {item.name: item.metadata.get("help", "") for item in fields(Experiment)}
    assert [name for name, text in texts.items() if not text] == []
    for name, options in NAMES.items():
        assert name in ("roles", "defense") or all(option in texts[name] for option in options)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_name(name: str) -> None:
    for option in NAMES[name]:
        assert getattr(Experiment.from_dict({name: option}), name) == option
        said = refused(**{name: f"{option}x"})
        assert f"'{option}x'; did you mean '{option}'?" in said
        assert all(other in said for other in NAMES[name])
    assert "did you mean" not in refused(**{name: "qqqqqqqq"})


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_out_of_range(name: str, value: float) -> None:
    assert f"{name}={value}" in refused(**{name: value})


@pytest.mark.parametrize(("name", "value"), WRONG_TYPE)
def test_wrong_type(name: str, value: object) -> None:
    said = refused(**{name: value})
    assert name in said
    assert repr(value) in said


@pytest.mark.parametrize(("name", "value"), [("rounds", 2.5), ("lr", "many"), ("seed", 1.5), ("dataset", 3)])
def test_wrong_type_in_python(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=name):
        Experiment(**{name: value})


def test_borders_are_allowed() -> None:
    for settings in ({name: 1} for name in COUNTS):
        Experiment.from_dict(settings)
    for name, value in (("malicious", 0), ("malicious", 1), ("attack_start", 0), ("target", 0), ("weight_decay", 0)):
        Experiment.from_dict({name: value})
    assert Experiment(participants=100).participants == 100
    assert "clients=100" in refused(participants=101)


def test_unknown_setting() -> None:
    said = refused(round=3)
    assert "'round'; did you mean 'rounds'?" in said
    assert all(item.name in said for item in fields(Experiment))


def test_parameters_of_a_method_are_checked() -> None:
    assert "did you mean 'clusters'?" in refused(defense_args={"cluster": 3})
    assert "clusters=0" in refused(defense_args={"clusters": 0})
    assert "it takes none" in refused(defense="fedavg", defense_args={"clusters": 2})
    assert "did you mean 'size'?" in refused(attack_args={"sze": 3})
    assert "size='big'" in refused(attack_args={"size": "big"})


def test_names_of_kernels_are_checked() -> None:
    assert "did you mean 'gram'?" in refused(kernels={"gramm": "torch"})
    said = refused(kernels={"pca": "eig"})
    allowed = "auto, eigh, squaring, krylov"
    assert said == f"kernels: pca has no implementation 'eig'; did you mean 'eigh'? Allowed: {allowed}"
    assert "'gram'=3" in refused(kernels={"gram": 3})
    assert Experiment(kernels={"gram": "auto"}).kernels == {"gram": "auto"}


def test_a_file_from_before_there_were_kernels() -> None:
    old = {name: value for name, value in Experiment().to_dict().items() if name != "kernels"}
    assert Experiment.from_dict(old) == Experiment()


def test_text_is_read_as_what_the_setting_is() -> None:
    told = Experiment.from_dict(
        {"rounds": "3", "lr": "1e-2", "participants": "none", "malicious": 1, "model": "logistic"}
    )
    assert (told.rounds, told.lr, told.participants, told.malicious) == (3, 0.01, None, 1.0)
    assert isinstance(told.malicious, float)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "clients": st.integers(7, 10**6),
            "participants": st.none() | st.integers(1, 7),
            "malicious": st.floats(0, 1),
            "lr": st.floats(1e-300, 3.4e38),
            "scale": st.floats(-3.4e38, 3.4e38),
            "seed": st.integers(),
            "partition": st.sampled_from(PARTITIONS),
            "kernels": st.fixed_dictionaries({}, optional={"pca": st.just("eigh"), "kmeans": st.just("cuml")}),
            "defense_args": st.fixed_dictionaries({}, optional={"clusters": st.integers(1, 9), "eps1": st.just(3.0)}),
        },
    )
)
def test_a_file_gives_the_configuration_back(settings: dict[str, Any]) -> None:
    told = Experiment(**settings)
    assert told.to_dict().items() >= settings.items()
    assert Experiment.from_dict(json.loads(json.dumps(told.to_dict()))) == told
