"""The dry run: resolved settings, back end, chunk and memory by part, without training."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rflbat.defenses.server_view import in_words
from rflbat.experiment.config import Experiment
from rflbat.round.memory import readable, round_memory
from rflbat.round.setup import build, check_start
from rflbat.round.state import Federation

Rows = list[tuple[str, str]]


def plan_run(experiment: Experiment) -> Rows:
    """Resolve an experiment and describe its run. The data are loaded; nothing is trained or written.

    Args:
        experiment: as the user gave it.

    Returns:
        (name, value) pairs in display order.

    Raises:
        UserError: as ``build`` raises.

    Example:
        >>> dict(plan_run(Experiment(dataset="digits", clients=10, device="cpu", defense="fedavg")))["clients"]
        '10 of 10 a round, for 50 rounds of 10 steps with batches of 60'
    """
    federation = build(experiment)
    check_start(federation.experiment)
    parts = round_memory(federation)
    largest = max(parts.phases, key=lambda name: parts.phases[name])
    memory = [(f"memory: {name}", f"{readable(size)}, always held") for name, size in parts.resident.items()]
    memory += [(f"memory: {name}", f"{readable(size)}, in turn") for name, size in parts.phases.items()]
    return [
        *_settings(federation),
        *memory,
        ("memory of a round", f"{readable(parts.peak)}: all that is always held, and {largest}"),
    ]


def _settings(federation: Federation) -> Rows:
    experiment, backend = federation.experiment, federation.backend
    epochs = experiment.local_epochs
    local = f"{experiment.local_steps} steps" if epochs is None else f"{epochs} epochs"
    shadows = f", shadows: {', '.join(shadow.name for shadow in federation.shadows)}" if federation.shadows else ""
    return [
        (
            "data set",
            f"{experiment.dataset}, {len(federation.train_x)} samples to train on and {len(federation.test_x)} to test"
            + (f", augmented by {experiment.augment}" if experiment.augment else ""),
        ),
        (
            "clients",
            f"{experiment.participants} of {experiment.clients} a round, for {experiment.rounds} rounds of "
            f"{local} with batches of {experiment.batch_size}",
        ),
        ("model", f"{federation.model.name}, {_parameters(federation)}"),
        *([("start", str(experiment.start))] if experiment.start else []),
        (
            "attack",
            f"{federation.attack.name} by {experiment.malicious:g} of the clients (knowledge: "
            f"{federation.attack.knowledge}; measured by: {federation.attack.success})",
        ),
        ("defense", f"{federation.defense.name}{shadows}"),
        *_needs(federation),
        ("device", str(federation.device)),
        ("back end", f"{backend.name} ({backend.reason})"),
        ("chunk", f"{backend.chunk} clients at a time, {backend.workers} of these chunks at once"),
    ]


def _needs(federation: Federation) -> Rows:
    """Describe what the defenses need besides the updates, and how often they wait for the device."""
    waits = federation.defense.waits + sum(shadow.waits for shadow in federation.shadows)
    rows = [("the defense needs", in_words(federation.needs))] if federation.needs else []
    if len(federation.root_indices):
        rows.append(("root data", f"{len(federation.root_indices)} training samples that no client has"))
    return [*rows, *([("waits for the device", f"{waits} a round, for work on the host")] if waits else [])]


def _parameters(federation: Federation) -> str:
    """Count the parameters; running statistics and frozen ones apart, where there are any."""
    layout = federation.model.layout
    carried, frozen = layout.size - layout.trained, sum(each.numel() for each in federation.model.constants.values())
    counts = [f"{layout.trained} parameters"]
    counts += [f"{carried} carried"] if carried else []
    counts += [f"{frozen} frozen"] if frozen else []
    return ", ".join(counts)


def show_plan(console: Console, rows: Rows) -> None:
    """Print the rows: a table on a terminal, plain lines elsewhere.

    Args:
        console: output.
        rows: from ``plan_run``.
    """
    if not console.is_terminal:
        for name, value in rows:
            console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    console.print(table)
