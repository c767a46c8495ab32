"""Memory model of a round: what is allocated throughout, and the workspaces of its phases, which take turns.

Axes: N clients of the round, D parameters.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rflbat.clients import sharded
from rflbat.clients.executor import ClientDoesNotFit, is_out_of_memory
from rflbat.clients.memory import bytes_per_client
from rflbat.clients.row_sparse import at_most_with_rows
from rflbat.defenses.base import Defense, Updates, state_tensors
from rflbat.defenses.server_view import ServerView
from rflbat.errors import UserError
from rflbat.models.base import Model
from rflbat.randomness import replayed
from rflbat.round.draws import most_steps
from rflbat.round.evaluation import BATCH
from rflbat.round.needs import make_forward, output_chunks
from rflbat.round.root_data import CLIENTS, ROUNDS
from rflbat.round.state import Federation
from rflbat_kernels import RowSparse, SharedRows, TouchedRows

META = torch.device("meta")


@dataclass(frozen=True)
class RoundMemory:
    """Bytes of a round on its device, by part.

    Args:
        resident: parts that are allocated during the whole round.
        phases: workspaces of the phases; each phase starts after the previous one has freed its own.
    """

    resident: dict[str, int]
    phases: dict[str, int]

    @property
    def peak(self) -> int:
        """All resident parts plus the largest phase."""
        return sum(self.resident.values()) + max(self.phases.values())


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Track the peak memory held by the results of all operations; on the meta device nothing is allocated.

    Example:
        >>> with Live() as live:
        ...     for _ in range(3):
        ...         block = torch.zeros(1000, device="meta") + 1
        >>> live.peak
        12000
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._held: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_storage(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and _storage(each) not in given:
                self._held[_storage(each)] = each.untyped_storage().nbytes()
        self._held = {held: size for held, size in self._held.items() if not _is_gone(held)}
        self.peak = max(self.peak, sum(self._held.values()))
        return result


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _is_gone(storage: StorageWeakRef) -> bool:
    gone: bool = storage.expired()  # type: ignore[no-untyped-call]
    return gone


def workspace(function: Callable[[], object]) -> int:
    """Compute the peak memory that a function holds on the meta device, results included.

    Args:
        function: creates its inputs beforehand, so that they are not counted.

    Returns:
        bytes.
    """
    with torch.no_grad(), Live() as live:
        function()
    most: int = live.peak
    return most


def defense_bytes(
    defense: Defense,
    clients: int,
    parameters: int,
    sent: RowSparse | None = None,
    view: ServerView | None = None,
) -> int:
    """Compute the workspace of a defense in a round, with the kernels of torch.

    It consists of Gram matrices, blocks of columns and the decision.

    Args:
        defense: the defense.
        clients: clients of the round N.
        parameters: D.
        sent: the updates if they are row-sparse; a defense that needs them dense then allocates the full matrix.
        view: what the server knows besides, on the meta device.

    Returns:
        bytes, without the updates and the defense's state.
    """
    updates = Updates(
        values=torch.empty(clients, parameters, device=META) if sent is None else sent,
        sizes_N=torch.empty(clients, dtype=torch.float64, device=META),
        client_ids_N=torch.empty(clients, dtype=torch.int64, device=META),
        valid_N=torch.empty(clients, dtype=torch.bool, device=META),
        malicious_count=torch.empty((), dtype=torch.int64, device=META),
        server=ServerView() if view is None else view,
    )
    numbers_U = torch.empty(defense.num_uniforms(clients, parameters), dtype=torch.float64, device=META)
    state = defense.init(clients, parameters, META)
    return workspace(lambda: defense.apply(updates, state, replayed(numbers_U)))


def known_to_the_server(federation: Federation, columns: int) -> ServerView:
    """Build what the server knows in a round, on the meta device; the models' outputs are made without forward passes.

    Args:
        federation: what no round changes.
        columns: columns of the updates on a rank.

    Returns:
        the view.
    """
    vector_D, model = torch.empty(columns, device=META), federation.model.to(META)
    layout = model.layout if federation.defense_columns == model.layout.size else model.layout.trained_part
    shape = tuple(federation.train_x.shape[1:])
    if "outputs" not in federation.needs:
        return ServerView(vector_D, vector_D, layout, vector_D)
    whole_D = torch.empty(model.layout.size, device=META)
    classes = model.apply(model.named(whole_D), torch.empty(1, *shape, device=META)).shape[-1]

    def forward(updates_ND: Tensor, x_B: Tensor, of_clients: bool = True) -> Tensor:
        return updates_ND.new_empty(len(updates_ND), len(x_B), classes)

    return ServerView(vector_D, vector_D, layout, vector_D, forward, shape)


def outputs_bytes(federation: Federation, clients: int, held: int) -> dict[str, int]:
    """Compute the workspace of one forward pass of the clients' models, for a defense that asks for their outputs.

    Args:
        federation: what no round changes.
        clients: clients of the round N.
        held: bytes that the defense itself holds at most; the pass runs inside it.

    Returns:
        the phase and its bytes; nothing if no defense needs it.
    """
    if "outputs" not in federation.needs:
        return {}
    model, shape = federation.model.to(META), tuple(federation.train_x.shape[1:])
    models, inputs = output_chunks(model, 1000, math.prod(shape), federation.device.type)
    updates_ND = torch.empty(min(models, clients), model.layout.size, device=META)
    x_B = torch.empty(inputs, *shape, device=META)
    forward = make_forward(model, torch.empty(model.layout.size, device=META))
    return {"outputs": held + workspace(lambda: forward(updates_ND, x_B))}


def most_sent(federation: Federation, clients: int) -> tuple[Model, RowSparse | None]:
    """Bound the size of the models and updates of a round.

    Args:
        federation: what no round changes.
        clients: clients of the round N.

    Returns:
        the model that a client trains, with the most rows of its embedding that a client can touch; the updates on the
        meta device, or None if they are dense.
    """
    experiment, model = federation.experiment, federation.model
    if federation.host_texts is None:
        return model, None
    tokens = _steps(federation) * experiment.batch_size * math.prod(federation.train_x.shape[1:])
    trained = at_most_with_rows(model, tokens)
    (words, width), (rows, _) = (each.layout.shapes[model.embedding] for each in (model, trained))
    own_NR, none = (torch.empty(*shape, dtype=torch.int64, device=META) for shape in ((clients, rows), (0,)))
    alone = SharedRows(own_NR[0], own_NR[:1].T, own_NR[:1].T)
    touched = TouchedRows(model.layout.offset(model.embedding), words, width, none, own_NR, (alone,))
    return trained, RowSparse(torch.empty(clients, trained.layout.size, device=META), touched)


def evaluation_bytes(federation: Federation) -> int:
    """Compute the workspace of the evaluation: one batch of triggered test samples and its forward pass.

    Args:
        federation: what no round changes.

    Returns:
        bytes.
    """
    model = federation.model.to(META)
    named = model.named(torch.empty(model.layout.size, device=META))
    x = torch.empty(
        min(BATCH, len(federation.test_x)), *federation.test_x.shape[1:], dtype=federation.test_x.dtype, device=META
    )
    return int(x.nbytes) + workspace(lambda: model.apply(named, x))


def attack_parts(federation: Federation, clients: int, width: int) -> tuple[dict[str, int], dict[str, int]]:
    """Bound what the attack holds: its state before and after the round, its tables, and what it sends.

    Args:
        federation: what no round changes.
        clients: clients of the round N.
        width: stored columns of the updates on a rank.

    Returns:
        bytes of the resident parts, and of the phase, in which the malicious rows are copied and replaced; an
        omniscient attack also holds a block of columns of all rows. Nothing for an attack without them.
    """
    experiment, attack = federation.experiment, federation.attack
    state = attack.init(-(-federation.defense_columns // federation.ranks.count), META)
    held = 0 if state is None else 2 * sum(each.nbytes for each in state_tensors(state).values())
    tables = [each for each in (federation.poison, federation.test_poison) if each is not None]
    held += sum(part.nbytes for each in tables for part in (each.label_n, each.eligible_n))
    resident = {"attack": held} if held else {}
    pool = clients if experiment.roles == "redrawn" else experiment.clients
    malicious = min(clients, int(experiment.malicious * pool + 0.5))
    if attack.tamper is None or not malicious:
        return resident, {}
    block = clients * min(width, 2**16) if attack.knowledge == "omniscient" else 0
    return resident, {"tampering": 4 * (2 * malicious * width + block)}


def round_memory(federation: Federation) -> RoundMemory:
    """Compute the memory of a round by part.

    Resident: the data set as model inputs; ``3 * 4 D`` bytes of global model, update and updated model, and ``4 D`` of
    the model one round before if a defense needs it; the constants of the model; ``4 N D`` bytes of updates, or the
    upper bound of row-sparse ones, and one more row for the server's own update; the draws, 13 bytes per sample of a
    batch; the states of defenses and attack, before and after the round, and the attack's table of labels.

    Phases: the clients that are trained at a time (``clients.memory``), the malicious rows that the attack replaces,
    the defense's workspace, one forward pass of the clients' models within it if a defense asks for their outputs, and
    one batch of the evaluation; before the first round the warm-up rounds of a defense that learns from root data.

    Each of several ranks holds its columns of the updates and states, and twice the updates of its next exchange.
    Workspaces of libraries and, on a CPU, the data set as it is stored are not included.

    Args:
        federation: what no round changes.

    Returns:
        bytes by part.
    """
    experiment, layout, backend = federation.experiment, federation.model.layout, federation.backend
    clients = experiment.participants or experiment.clients
    ranks = federation.ranks
    columns = -(-federation.defense_columns // ranks.count)
    rows = clients + ("root_update" in federation.needs)
    view = known_to_the_server(federation, columns)
    defenses = (federation.defense, *federation.shadows)
    states = [state_tensors(each.init(experiment.clients, columns, META)) for each in defenses]
    trained, sent = most_sent(federation, clients)
    data = [federation.train_x, federation.train_y, federation.test_x, federation.test_y]
    data += [] if federation.extra_x is None else [federation.extra_x]
    at_a_time = min(clients, backend.workers * backend.chunk)
    warm_up = {} if federation.defense.pretrain is None else {"warm-up rounds": ROUNDS * CLIENTS * columns * 4}
    width = trained.layout.size if ranks.is_single else columns
    # Two groups of clients: the updates of the larger one are copied into those of the round.
    apart = clients * width * 4 if len(experiment.optimizers) > 1 else 0
    defended = max(defense_bytes(each, clients, columns, sent, view) for each in defenses)
    turn = 0 if ranks.is_single else sharded.at_a_time(backend, clients, layout.size, ranks)
    frozen = sum(each.nbytes for each in federation.model.constants.values())
    of_attack, tampering = attack_parts(federation, clients, width)
    return RoundMemory(
        resident={
            "data set": sum(each.nbytes for each in data),
            "global model": (4 if "history" in federation.needs else 3) * layout.size * 4,
            **({"frozen parameters": frozen} if frozen else {}),
            "updates": rows * width * 4,
            "draws": rows * _steps(federation) * experiment.batch_size * 13,
            "defense state": 2 * sum(each.nbytes for state in states for each in state.values()),
            **of_attack,
        },
        phases={
            **warm_up,
            "training": at_a_time * _training_bytes(federation, trained) + turn * layout.size * 8 + apart,
            **tampering,
            "defense": defended,
            **outputs_bytes(federation, clients, defended),
            "evaluation": evaluation_bytes(federation),
        },
    )


def _steps(federation: Federation) -> int:
    return most_steps(federation.experiment, [len(own) for own in federation.client_indices])


def _training_bytes(federation: Federation, trained: Model) -> int:
    """Compute the memory that one client of a chunk holds while it trains."""
    experiment = federation.experiment
    copies = max(each.copies for each in experiment.optimizers)
    # Augmentation writes a second batch.
    augmented = experiment.batch_size * federation.train_x[0].nbytes if federation.augmentations else 0
    return bytes_per_client(trained, federation.train_x[0].to(META), experiment.batch_size, copies) + augmented


def readable(count: int) -> str:
    """Format a number of bytes for people.

    Args:
        count: bytes.

    Returns:
        three digits and a binary unit.

    Example:
        >>> readable(980), readable(31400), readable(12 * 2**30)
        ('980 B', '30.7 KiB', '12.0 GiB')
    """
    if count < 1024:
        return f"{count} B"
    size, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f} {units[0]}"


@contextmanager
def explain_out_of_memory(federation: Federation) -> Iterator[None]:
    """Turn an out-of-memory error in a round into one that states how much is needed and which settings need less.

    Args:
        federation: what no round changes.

    Raises:
        UserError: out of memory, and no smaller chunk can help.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0]
        raise UserError(
            f"out of memory: {_needed(federation, isinstance(error, ClientDoesNotFit))} ({said})"
        ) from error


def _needed(federation: Federation, one_client: bool) -> str:
    experiment, parameters = federation.experiment, federation.model.layout.size
    elsewhere = "" if federation.device.type == "cpu" else ", or --device cpu"
    if one_client:
        trained, _ = most_sent(federation, 1)
        needed = _training_bytes(federation, trained)
        what = f"{needed} bytes ({readable(needed)}) for {parameters} parameters and batches of {experiment.batch_size}"
        return f"training one client needs {what}; try a smaller --batch-size or another --model{elsewhere}"
    parts = round_memory(federation)
    each = ", ".join(f"{name} {readable(size)}" for name, size in (parts.resident | parts.phases).items())
    what = f"{parts.peak} bytes ({readable(parts.peak)}: {each})"
    return f"a round needs {what}; try fewer --participants, another --model or --defense{elsewhere}"
