"""Provenance of a run: versions, machine, automatic choices and peak memory."""

import os
import platform
import resource
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rflbat.clients.row_sparse import row_sparse
from rflbat.experiment.config import Experiment
from rflbat.round.start import digest_of, layout_record, start_file
from rflbat.round.state import Federation
from rflbat_kernels import dispatch


def versions() -> dict[str, str]:
    """List the versions of the software that a run's numbers depend on.

    Returns:
        package -> version, and Python's.
    """
    found = {"python": platform.python_version()}
    for package in ("rflbat", "torch", "torchvision", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe(federation: Federation) -> dict[str, Any]:
    """Describe a run for run.json: resolved settings, versions, machine and automatic choices.

    Args:
        federation: what no round changes.

    Returns:
        a dictionary that JSON can represent.
    """
    device, experiment = str(federation.device), federation.experiment
    cuda = federation.device.type == "cuda"
    asked, clients = experiment.kernels, experiment.participants or experiment.clients
    return {
        "config": federation.experiment.to_dict(),
        "versions": versions(),
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "device": torch.cuda.get_device_name(federation.device) if cuda else device,
        "kernels": {
            op: dispatch.choose(op, asked.get(op, "auto"), device, clients).name for op in dispatch.IMPLEMENTATIONS
        },
        "backend": asdict(federation.backend),
        "updates": row_sparse(
            federation.model,
            federation.experiment.optimizers,
            federation.attack,
            federation.ranks.count,
            federation.needs,
        )[1],
        "ranks": federation.ranks.count,
        "sizes": [len(own) for own in federation.client_indices],
        "held_out": len(federation.root_indices),
        "stages": list(federation.defense.stages),
        "start": _start(experiment),
        "knowledge": federation.attack.knowledge,
        "success": federation.attack.success,
        "clients": federation.experiment.clients,
        "parameters": federation.model.layout.size,
        "layout": layout_record(federation.model.layout),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _start(experiment: Experiment) -> dict[str, str] | None:
    """Identify the file whose parameters the run starts from."""
    if experiment.start is None:
        return None
    file = start_file(Path(experiment.start))
    return {"path": str(file), "sha256": digest_of(file)}


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory: on a CUDA device that of torch's allocator, otherwise that of the process.

    Args:
        device: device of the run.

    Returns:
        bytes.

    Example:
        >>> peak_bytes(torch.device("cpu")) > 2**20
        True
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
