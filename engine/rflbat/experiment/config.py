"""The configuration of an experiment: one flat, frozen, validated dataclass. Its fields are the command's flags."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from rflbat.arguments import Call, calls, check_arguments, lookup
from rflbat.attacks.registry import ATTACKS
from rflbat.clients.registry import BACKENDS, LR_SCHEDULES, OPTIMIZERS
from rflbat.clients.rules.registry import LOCAL_RULES, make_rule
from rflbat.data.registry import AUGMENTATIONS, DATASETS, PARTITIONS, TOKENIZERS, check_augment, default_attack
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.errors import UserError, nearest
from rflbat.models.registry import MODELS
from rflbat.registry import Registry
from rflbat.server.registry import SERVER_OPTIMIZERS, make_server_optimizer
from rflbat.transforms.registry import TRANSFORMS, make_transforms

if TYPE_CHECKING:
    from rflbat.clients.optimizer import Optimizer

METHODS: dict[str, Registry[Any]] = {
    "dataset": DATASETS,
    "model": MODELS,
    "attack": ATTACKS,
    "defense": DEFENSES,
    "local_rule": LOCAL_RULES,
    "attack_rule": LOCAL_RULES,
    "lr_schedule": LR_SCHEDULES,
    "server_optimizer": SERVER_OPTIMIZERS,
}
"""Settings that name a method -> registry. ``NAME_args`` holds the method's parameters; ``--NAME-arg`` adds one."""
ROLES = ("redrawn", "fixed")
BATCH_NORM = ("average", "keep-global")
DEFENSE_VECTORS = ("trained", "all")
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
    augment: str | None = _option(
        None, f"augmentation of training images, NAME,NAME(parameter=value),...: {', '.join(AUGMENTATIONS)}"
    )
    model: str | None = _option(None, f"model: {', '.join(MODELS)}; default the data set's")
    model_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the model, name=value; repeatable"}
    )
    batch_norm: str = _option(
        "average", "carried columns (running statistics) of the new global model: average, or keep-global"
    )
    attack: str | None = _option(None, f"attack: {', '.join(ATTACKS)}; default the data set's")
    attack_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the attack, name=value; repeatable"}
    )
    malicious: float = _option(0.5, "share of malicious clients, 0 to 1")
    roles: str = _option("redrawn", "malicious clients: redrawn in each round, or fixed")
    attack_start: int = _option(0, "first attacked round, counted from 0")
    attack_stop: int | None = _option(None, "first round after the attack; default the attack lasts until the end")
    attack_every: int = _option(1, "attack in every k-th round, from attack_start on")
    attack_rule: str | None = _option(None, f"local rule of the malicious clients: {', '.join(LOCAL_RULES)}")
    attack_rule_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the malicious clients' rule, name=value; repeatable"}
    )
    attack_lr: float | None = _option(None, "learning rate of the malicious clients; default as the others")
    attack_momentum: float | None = _option(None, "momentum of the malicious clients' sgd; default as the others")
    attack_weight_decay: float | None = _option(None, "weight decay of the malicious clients; default as the others")
    attack_steps: int | None = _option(None, "local steps of the malicious clients; default as the others")
    attack_epochs: int | None = _option(None, "epochs of the malicious clients, instead of steps")
    scale: float = _option(1.0, "factor lambda of the malicious updates")
    target: int = _option(0, "label that the backdoor wants")
    defense: str = _option("rflbat", "defense; see `rflbat list defenses`")
    defense_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the defense, name=value; repeatable"}
    )
    before: str | None = _option(
        None, f"transforms of the updates before the defense, NAME,NAME(parameter=value),...: {', '.join(TRANSFORMS)}"
    )
    shadow: str | None = _option(
        None, "shadow defenses, NAME,NAME(parameter=value),...: they judge every round and change nothing"
    )
    root_samples: int = _option(
        100, "training samples set aside for a defense that trains an update of the server's own"
    )
    defense_vector: str = _option("trained", "columns of the updates that attack and defense see: trained, or all")
    start: str | None = _option(None, "safetensors file or run folder whose parameters the run starts from")
    rounds: int = _option(50, "rounds")
    local_steps: int = _option(10, "mini-batch steps of a client in a round")
    local_epochs: int | None = _option(None, "epochs of a client in a round, instead of local_steps")
    local_rule: str | None = _option(None, f"local rule of the honest clients: {', '.join(LOCAL_RULES)}")
    local_rule_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the honest clients' rule, name=value; repeatable"}
    )
    batch_size: int = _option(60, "mini-batch size")
    drop_last: bool = _option(
        False, "leave out the last, short batch of an epoch of a client, unless it is the only one"
    )
    lr: float = _option(0.1, "learning rate of the clients")
    lr_schedule: str = _option("constant", f"learning rate over the rounds: {', '.join(LR_SCHEDULES)}")
    lr_schedule_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the schedule, name=value; repeatable"}
    )
    optimizer: str = _option("sgd", f"optimizer of the clients, fresh in each round: {', '.join(OPTIMIZERS)}")
    momentum: float = _option(0.0, "momentum of the clients' sgd, 0 to below 1")
    weight_decay: float = _option(0.0, "weight decay of the clients")
    clip_norm: float | None = _option(None, "largest L2 norm of a client's gradient in a step; default no limit")
    server_lr: float = _option(1.0, "learning rate of the server")
    server_optimizer: str = _option("sgd", f"optimizer of the server: {', '.join(SERVER_OPTIMIZERS)}")
    server_optimizer_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "a parameter of the server's optimizer, name=value; repeatable"}
    )
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
        check_augment(self.augment)
        defense = make_defense(self.defense, self.defense_args)
        if self.before is not None:
            from rflbat.transforms.base import before

            before(make_transforms(self.before), defense)
        make_rule(self.local_rule, self.local_rule_args)
        make_rule(self.attack_rule, self.attack_rule_args)
        self.lr_in(0)
        if self.server_optimizer != "sgd":
            make_server_optimizer(self.server_optimizer, self.server_optimizer_args)
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
        """Optimizer, local steps and local rule of the honest clients, at the learning rate of the first round."""
        from rflbat.clients.optimizer import Optimizer

        return Optimizer(
            self.local_steps,
            self.lr,
            self.momentum,
            self.weight_decay,
            name=self.optimizer,
            clip_norm=self.clip_norm,
            rule=make_rule(self.local_rule, self.local_rule_args),
        )

    @property
    def attack_optimizer(self) -> "Optimizer | None":
        """The same of the malicious clients; None if they train as the honest ones do."""
        names = {"lr": "attack_lr", "momentum": "attack_momentum", "weight_decay": "attack_weight_decay"}
        own = {name: getattr(self, setting) for name, setting in {**names, "steps": "attack_steps"}.items()}
        own = {name: value for name, value in own.items() if value is not None}
        if not own and self.attack_epochs is None and self.attack_rule == self.local_rule is None:
            return None
        rule = make_rule(self.attack_rule, self.attack_rule_args)
        return dataclasses.replace(self.client_optimizer, **own, rule=rule)

    @property
    def optimizers(self) -> "tuple[Optimizer, ...]":
        """Optimizers of all groups of clients, the honest clients' first."""
        return tuple(each for each in (self.client_optimizer, self.attack_optimizer) if each is not None)

    def lr_in(self, round_number: int) -> float:
        """Return the factor of all clients' learning rates in a round.

        Args:
            round_number: round, from 0.

        Returns:
            the factor, above 0; 1 in the first round.
        """
        schedule = LR_SCHEDULES[self.lr_schedule](**self.lr_schedule_args)
        return float(schedule.factor(round_number, self.rounds))

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
        ("batch_norm", BATCH_NORM),
        ("defense_vector", DEFENSE_VECTORS),
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
    optional = ("participants", "chunk", "local_epochs", "attack_steps", "attack_epochs")
    bounds += [(key, 1, math.inf) for key in optional if getattr(experiment, key) is not None]
    if experiment.attack_stop is not None:
        bounds.append(("attack_stop", experiment.attack_start + 1, math.inf))
    bounds += [
        ("malicious", 0, 1),
        ("attack_start", 0, math.inf),
        ("attack_every", 1, math.inf),
        ("target", 0, math.inf),
    ]
    for key, low, high in bounds:
        value = getattr(experiment, key)
        if not low <= value <= high:
            allowed = f"{low} to {high}" if high < math.inf else f"at least {low}"
            raise UserError(f"{key}={value} is out of range; allowed: {allowed}")
    for key in ("alpha", "lr", "server_lr", "attack_lr"):
        value = getattr(experiment, key)
        if value is not None and not 0 < value <= MOST:
            raise UserError(f"{key}={value} is out of range; allowed: above 0, at most {MOST:g}")
    for prefix in ("", "attack_"):
        decay, momentum = getattr(experiment, f"{prefix}weight_decay"), getattr(experiment, f"{prefix}momentum")
        if decay is not None and not 0 <= decay <= MOST:
            raise UserError(f"{prefix}weight_decay={decay} is out of range; allowed: at least 0, at most {MOST:g}")
        if momentum is not None and not 0 <= momentum < 1:
            raise UserError(f"{prefix}momentum={momentum} is out of range; allowed: 0 to below 1")
        if momentum and experiment.optimizer != "sgd":
            raise UserError(f"{prefix}momentum={momentum} belongs to optimizer='sgd', not to {experiment.optimizer!r}")
    if experiment.attack_steps is not None and experiment.attack_epochs is not None:
        raise UserError("attack_steps and attack_epochs are both set; the malicious clients train for one of them")
    if experiment.clip_norm is not None and not 0 < experiment.clip_norm <= MOST:
        raise UserError(f"clip_norm={experiment.clip_norm} is out of range; allowed: above 0, at most {MOST:g}")
    if not abs(experiment.scale) <= MOST:
        raise UserError(f"scale={experiment.scale} is not a finite number; allowed: {-MOST:g} to {MOST:g}")
    if experiment.participants is not None and experiment.participants > experiment.clients:
        raise UserError(f"participants={experiment.participants} is more than clients={experiment.clients}")
