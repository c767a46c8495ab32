"""What a run would be, without running it: settings, back end, chunk, and memory by part."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rflbat.config import Experiment
from rflbat.footprint import footprint, readable
from rflbat.round import World
from rflbat.world import build

Rows = list[tuple[str, str]]


def plan_run(experiment: Experiment) -> Rows:
    """Resolve an experiment and say how it would be run. Its data is loaded; nothing is trained or written.

    Args:
        experiment: as the user gave it.

    Returns:
        (what, how), in the order to be shown.

    Raises:
        UserError: as ``build`` raises.

    Example:
        >>> dict(plan_run(Experiment(dataset="digits", clients=10, device="cpu", defense="fedavg")))["clients"]
        '10 of 10 a round, for 50 rounds of 10 steps with batches of 60'
    """
    world = build(experiment)
    parts = footprint(world)
    largest = max(parts.phases, key=lambda name: parts.phases[name])
    memory = [(f"memory: {name}", f"{readable(size)} all the time") for name, size in parts.resident.items()]
    memory += [(f"memory: {name}", f"{readable(size)} in turn") for name, size in parts.phases.items()]
    return [
        *_settings(world),
        *memory,
        ("memory of a round", f"{readable(parts.peak)}: all that is there all the time, and {largest}"),
    ]


def _settings(world: World) -> Rows:
    experiment, backend = world.experiment, world.backend
    shadows = f", looked on by {', '.join(shadow.name for shadow in world.shadows)}" if world.shadows else ""
    return [
        ("data set", f"{experiment.dataset}, {len(world.train_x)} samples to train on and {len(world.test_x)} to test"),
        (
            "clients",
            f"{experiment.participants} of {experiment.clients} a round, for {experiment.rounds} rounds of "
            f"{experiment.local_steps} steps with batches of {experiment.batch_size}",
        ),
        ("model", f"{world.model.name}, {world.model.layout.size} parameters"),
        ("attack", f"{world.attack.name} by {experiment.malicious:g} of the clients"),
        ("defense", f"{world.defense.name}{shadows}"),
        ("device", str(world.device)),
        ("back end", f"{backend.name} ({backend.reason})"),
        ("chunk", f"{backend.chunk} clients at a time, {backend.workers} of these chunks at once"),
    ]


def show_plan(console: Console, rows: Rows) -> None:
    """Write the rows: a table on a terminal, plain lines elsewhere.

    Args:
        console: where to.
        rows: as ``plan_run`` gives them.
    """
    if not console.is_terminal:
        for what, how in rows:
            console.print(f"{what}: {how}", markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for what, how in rows:
        table.add_row(escape(what), escape(how))
    console.print(table)
