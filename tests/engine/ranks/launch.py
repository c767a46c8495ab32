"""Several processes of one simulation, started as a launcher starts them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).with_name("driver.py")
LIMIT = 300
"""Seconds after which a test gives up on its processes."""


def environment(**more: str) -> dict[str, str]:
    """The sources, one thread a process, and no rank."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("engine", "kernels", "."))
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**own, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


def start(count: int, words: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Start a number of processes of ``python WORDS`` that find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(**place, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Wait for them; give the exit status and what was said on stderr of each."""
    try:
        told = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


def drive(count: int, folder: Path, tasks: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Run the tasks in a folder on a number of ranks; return each rank's account by name."""
    folder.mkdir(exist_ok=True)
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"tasks": tasks}), encoding="utf-8")
    for status, text in finish(start(count, [str(DRIVER), str(plan)])):
        assert status == 0, text
    return [json.loads((folder / f"account.{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]
