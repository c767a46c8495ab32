"""The configuration of an experiment: one flat, frozen, validated dataclass. Its fields are the command's flags."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from rflbat.arguments import Call, calls, check_arguments, lookup
from rflbat.attacks.registry import ATTACKS
from rflbat.clients.registry import BACKENDS, OPTIMIZERS
from rflbat.data.registry import DATASETS, PARTITIONS, TOKENIZERS, default_attack
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.errors import UserError, nearest
from rflbat.models.registry import MODELS
from rflbat.registry import Registry

if TYPE_CHECKING:
    from rflbat.clients.optimizer import Optimizer

METHODS: dict[str, Registry[Any]] = {"dataset": DATASETS, "model": MODELS, "attack": ATTACKS, "defense": DEFENSES}
"""Settings that name a method -> registry. ``NAME_args`` holds the method's parameters; ``--NAME-arg`` adds one."""
ROLES = ("redrawn", "fixed")
DEVICES = ("auto", "cpu", "cuda")
MOST = 3.4e38
"""Largest factor of a float32 tensor."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: data, federation, attack, defense, training. The defaults reproduce the paper on MNIST.

    Raises:
        UserError: an unknown name, or a value out of its range; the message says what is allowed.

    Example:
        >>> Experiment(dataset="mnist", malicious=0.5, defense="krum").rounds
        50
    """

    dataset: str = _option("digits", f"data set: {', '.join(DATASETS)}")
    data_dir: str | None = _option(None, "folder of data sets; default $RFLBAT_DATA_DIR")
    dataset_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the data set, name=value; repeatable"}
    )
    tokenizer: str | None = _option(None, f"tokens of texts: {', '.join(TOKENIZERS)}")
    clients: int = _option(100, "clients of the federation")
    participants: int | None = _option(None, "clients drawn for each round; default all")
    partition: str = _option("iid", f"how samples are divided among clients: {', '.join(PARTITIONS)}")
    alpha: float = _option(1.0, "Dirichlet concentration; small is skewed")
    model: str | None = _option(None, f"model: {', '.join(MODELS)}; default the data set's")
    model_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the model, name=value; repeatable"}
    )
    attack: str | None = _option(None, f"attack: {', '.join(ATTACKS)}; default the data set's")
    attack_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the attack, name=value; repeatable"}
    )
    malicious: float = _option(0.5, "share of malicious clients, 0 to 1")
    roles: str = _option("redrawn", "malicious clients: redrawn in each round, or fixed")
    attack_start: int = _option(0, "first attacked round, counted from 0")
    scale: float = _option(1.0, "factor lambda of the malicious updates")
    target: int = _option(0, "label that the backdoor wants")
    defense: str = _option("rflbat", "defense; see `rflbat list defenses`")
    defense_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the defense, name=value; repeatable"}
    )
    shadow: str | None = _option(
        None, "shadow defenses, NAME,NAME(parameter=value),...: they judge every round and change nothing"
    )
    root_samples: int = _option(
        100, "training samples set aside for a defense that trains an update of the server's own"
    )
    rounds: int = _option(50, "rounds")
    local_steps: int = _option(10, "mini-batch steps of a client in a round")
    batch_size: int = _option(60, "mini-batch size")
    drop_last: bool = _option(
        False, "leave out the last, short batch of an epoch of a client, unless it is the only one"
    )
    lr: float = _option(0.1, "learning rate of the clients")
    optimizer: str = _option("sgd", f"optimizer of the clients, fresh in each round: {', '.join(OPTIMIZERS)}")
    momentum: float = _option(0.0, "momentum of the clients' sgd, 0 to below 1")
    weight_decay: float = _option(0.0, "weight decay of the clients")
    clip_norm: float | None = _option(None, "largest L2 norm of a client's gradient in a step; default no limit")
    server_lr: float = _option(1.0, "learning rate of the server")
    seed: int = _option(0, "key of every draw")
    device: str = _option("auto", f"device: {', '.join(DEVICES)}")
    backend: str = _option("auto", f"local training: {', '.join(BACKENDS)}")
    chunk: int | None = _option(None, "clients per tensor program; default by memory")
    kernels: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "implementation of a kernel, name=value, of `rflbat list kernels`; repeatable"},
    )
    eval_every: int = _option(1, "evaluate after every this many rounds, and after the last")
    checkpoint_every: int = _option(10, "checkpoint after every this many rounds, and after the last")

    def __post_init__(self) -> None:
        self._store(
            check_arguments("the configuration", Experiment, {f.name: getattr(self, f.name) for f in fields(self)})
        )
        _check_names(self)
        _check_ranges(self)
        for setting, registry in METHODS.items():
            name = getattr(self, setting) or (default_attack(self.dataset) if setting == "attack" else None)
            if name is not None:  # the default model is known once the data set is loaded
                make, given = lookup(registry.kind, registry, name), getattr(self, f"{setting}_args")
                self._store({f"{setting}_args": check_arguments(f"{registry.kind} '{name}'", make, given)})
        check_arguments(f"data set '{self.dataset}'", DATASETS[self.dataset], self.load_args)
        defense = make_defense(self.defense, self.defense_args)
        for label, name, given in self.shadows:
            shadow = make_defense(name, given)
            if shadow.pretrain is not None:
                raise UserError(
                    f"shadow={label!r} learns from root data, which the clients would lose, and a shadow must change "
                    f"nothing; run it alone: defense={name!r}"
                )
            if "root_update" in shadow.needs and ("root_update" not in defense.needs or defense.pretrain is not None):
                raise UserError(
                    f"shadow={label!r} needs an update of the server's own on root data, which the clients would lose, "
                    f"and a shadow must change nothing; run it alone: defense={name!r}, or beside a defense that sets "
                    f"the same samples aside"
                )

    @property
    def load_args(self) -> dict[str, Any]:
        """Parameters that the data set is loaded with."""
        return self.dataset_args if self.tokenizer is None else {**self.dataset_args, "tokenizer": self.tokenizer}

    @property
    def shadows(self) -> tuple[Call, ...]:
        """Shadow defenses, with their parameters."""
        return calls(self.shadow or "", "shadow")

    @property
    def client_optimizer(self) -> "Optimizer":
        """Optimizer and local steps of every client."""
        from rflbat.clients.optimizer import Optimizer

        return Optimizer(
            self.local_steps, self.lr, self.momentum, self.weight_decay, name=self.optimizer, clip_norm=self.clip_norm
        )

    def _store(self, values: Mapping[str, Any]) -> None:
        """Replace settings, which may be text, by values of the declared types."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return every setting by name, as run.json stores it.

        Returns:
            plain dictionary; ``Experiment.from_dict`` takes it.
        """
        return dataclasses.asdict(self)

    def changed(self, settings: Mapping[str, object]) -> "Experiment":
        """Return a copy with other settings; the parameters of a method that is replaced are dropped.

        Args:
            settings: name -> value.

        Returns:
            the other experiment.

        Raises:
            UserError: as ``from_dict``.

        Example:
            >>> Experiment(defense="krum", defense_args={"f": 3}).changed({"defense": "fedavg"}).defense_args
            {}
        """
        kept = self.to_dict()
        for method in METHODS:
            if settings.get(method, kept[method]) != kept[method]:
                kept[f"{method}_args"] = {}
        return Experiment.from_dict({**kept, **settings})

    @classmethod
    def from_dict(cls, settings: Mapping[str, object]) -> "Experiment":
        """Build an experiment from a mapping, such as a TOML file or run.json.

        Args:
            settings: name -> value; a missing setting takes its default.

        Returns:
            the experiment.

        Raises:
            UserError: an unknown name, a value of the wrong type or out of its range.

        Example:
            >>> Experiment.from_dict({"round": 3})
            Traceback (most recent call last):
            rflbat.errors.UserError: the configuration has no parameter 'round'; did you mean 'rounds'?; it takes ...
        """
        return cls(**check_arguments("the configuration", cls, settings))


def _check_names(experiment: Experiment) -> None:
    if experiment.tokenizer is not None:
        lookup("tokenizer", dict.fromkeys(TOKENIZERS), experiment.tokenizer)
    for key, allowed in (
        ("partition", PARTITIONS),
        ("roles", ROLES),
        ("device", DEVICES),
        ("backend", BACKENDS),
        ("optimizer", OPTIMIZERS),
    ):
        value = getattr(experiment, key)
        if value not in allowed:
            raise UserError(f"{key}={value!r}{nearest(value, allowed)}; allowed: {', '.join(allowed)}")
    for op, name in experiment.kernels.items():
        from rflbat_kernels import dispatch

        if not (isinstance(op, str) and isinstance(name, str)):
            raise UserError(f"kernels: {op!r}={name!r} is not a pair of names")
        try:
            dispatch.check(op, name)
        except ValueError as error:
            raise UserError(f"kernels: {error}") from None


def _check_ranges(experiment: Experiment) -> None:
    at_least_one = ("clients", "root_samples", "rounds", "local_steps", "batch_size", "eval_every", "checkpoint_every")
    bounds: list[tuple[str, float, float]] = [(key, 1, math.inf) for key in at_least_one]
    bounds += [(key, 1, math.inf) for key in ("participants", "chunk") if getattr(experiment, key) is not None]
    bounds += [
        ("malicious", 0, 1),
        ("attack_start", 0, math.inf),
        ("target", 0, math.inf),
    ]
    for key, low, high in bounds:
        value = getattr(experiment, key)
        if not low <= value <= high:
            allowed = f"{low} to {high}" if high < math.inf else f"at least {low}"
            raise UserError(f"{key}={value} is out of range; allowed: {allowed}")
    for key in ("alpha", "lr", "server_lr"):
        value = getattr(experiment, key)
        if not 0 < value <= MOST:
            raise UserError(f"{key}={value} is out of range; allowed: above 0, at most {MOST:g}")
    decay = experiment.weight_decay
    if not 0 <= decay <= MOST:
        raise UserError(f"weight_decay={decay} is out of range; allowed: at least 0, at most {MOST:g}")
    if not 0 <= experiment.momentum < 1:
        raise UserError(f"momentum={experiment.momentum} is out of range; allowed: 0 to below 1")
    if experiment.momentum and experiment.optimizer != "sgd":
        raise UserError(f"momentum={experiment.momentum} belongs to optimizer='sgd', not to {experiment.optimizer!r}")
    if experiment.clip_norm is not None and not 0 < experiment.clip_norm <= MOST:
        raise UserError(f"clip_norm={experiment.clip_norm} is out of range; allowed: above 0, at most {MOST:g}")
    if not abs(experiment.scale) <= MOST:
        raise UserError(f"scale={experiment.scale} is not a finite number; allowed: {-MOST:g} to {MOST:g}")
    if experiment.participants is not None and experiment.participants > experiment.clients:
        raise UserError(f"participants={experiment.participants} is more than clients={experiment.clients}")
