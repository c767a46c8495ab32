"""Launchers of a sweep: processes on this machine, or tasks of a Ray cluster."""

from functools import partial
from typing import Any

from rflbat.arguments import lookup
from rflbat.errors import UserError
from rflbat.sweep.local import run_local
from rflbat.sweep.ray import run_on_ray
from rflbat.sweep.work import Launcher

LAUNCHERS = ("local", "ray")


def make_launcher(name: str, jobs: int, gpus_per_cell: float | None, device: str) -> Launcher[Any]:
    """Make the launcher that runs the cells of a sweep.

    Args:
        name: ``local`` or ``ray``.
        jobs: number of processes of ``local``, at least 1.
        gpus_per_cell: GPUs that a task of ``ray`` requests, a fraction of one or a whole number; None: 1 on CUDA, 0 on
            the CPU.
        device: ``cpu`` or ``cuda``.

    Returns:
        the launcher.

    Raises:
        UserError: an unknown name, a number out of range, or a number that the launcher does not accept.

    Example:
        >>> make_launcher("locl", 1, None, "cpu")
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: unknown launcher 'locl'; did you mean 'local'?; known: local, ray
    """
    lookup("launcher", dict.fromkeys(LAUNCHERS), name)
    if jobs < 1:
        raise UserError(f"jobs={jobs} is out of range; allowed: at least 1")
    if name == "local":
        if gpus_per_cell is not None:
            raise UserError(f"gpus_per_cell={gpus_per_cell} needs launcher 'ray'; 'local' takes jobs instead")
        return partial(run_local, jobs=jobs, cuda=device == "cuda")
    if jobs != 1:
        raise UserError(f"jobs={jobs} needs launcher 'local'; 'ray' runs as many cells as fit on the cluster")
    gpus = float(device == "cuda") if gpus_per_cell is None else gpus_per_cell
    if not (0 <= gpus <= 1 or 1 < gpus == int(min(gpus, 1024))):
        raise UserError(f"gpus_per_cell={gpus} is out of range; allowed: 0 to 1, or a whole number up to 1024")
    if device == "cuda" and gpus == 0:
        raise UserError("gpus_per_cell=0 hides every GPU from a cell, but device is 'cuda'; allowed: above 0")
    return partial(run_on_ray, gpus=gpus)
