"""The strategy in Flower's own simulation, and with a SuperLink and real clients on loopback.

One of six clients sends poisoned updates. Clients of Flower 1.39 talk to the SuperLink by gRPC, those of 1.40 and later
by HTTP alone: the test takes what the installed release has.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

if importlib.util.find_spec("flwr") is None:
    pytest.skip("needs rflbat[flower]", allow_module_level=True)
ROOT = Path(__file__).parents[3]
CLIENTS, POISONED, ROUNDS = 6, 2, 3
pytestmark = pytest.mark.slow

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "digits"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "rflbat"
[tool.flwr.app.components]
serverapp = "federation:server_app"
clientapp = "federation:client_app"
[tool.flwr.app.config]
"""


def environment(folder: Path, out: Path, defense: str) -> dict[str, str]:
    """Flower and Ray write only to ``folder``, and their telemetry is off."""
    paths = [str(ROOT / "engine"), str(ROOT / "kernels"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_HOME": str(folder / "flwr"),
        "FEDERATION_OUT": str(out),
        "FEDERATION_DEFENSE": defense,
        "OMP_NUM_THREADS": "1",
    }


def told(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def check_rejected(result: dict[str, Any]) -> None:
    """The poisoned client is dropped in every round, and the model learns all the same."""
    assert len(result["rounds"]) == ROUNDS
    for metrics in result["rounds"]:
        assert metrics["errors"] == metrics["malformed"] == 0
        assert len(metrics["node-ids"]) == CLIENTS
        assert metrics["weights"][POISONED] == 0.0
        assert metrics["kept"] >= 3
        fallen = [node for name, nodes in metrics.items() if name.startswith("dropped-at-") for node in nodes]
        assert metrics["node-ids"][POISONED] in fallen
        assert len(fallen) == metrics["dropped"] == CLIENTS - metrics["kept"]
    assert result["accuracy"] > 0.8


def simulate(folder: Path, name: str, defense: str) -> dict[str, Any]:
    out = folder / f"{name}.json"
    command = [sys.executable, "-c", "from tests.engine.interop.federation import simulate; simulate()"]
    done = subprocess.run(
        command,
        env=environment(folder, out, defense),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert out.exists(), done.stderr[-4000:]
    return told(out)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs flwr[simulation]")
def test_simulation_rejects_the_poisoned_client_and_repeats(tmp_path: Path) -> None:
    first, second = (simulate(tmp_path, name, "multikrum") for name in ("first", "second"))
    check_rejected(first)
    check_rejected(second)
    assert first["model"] == second["model"]
    assert [row["weights"] for row in first["rounds"]] == [row["weights"] for row in second["rounds"]]
    poisoned = simulate(tmp_path, "undefended", "fedavg")
    assert [row["kept"] for row in poisoned["rounds"]] == [CLIENTS] * ROUNDS
    assert poisoned["accuracy"] < first["accuracy"] - 0.3


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def descendants(pid: int) -> list[int]:
    """Children of a process and theirs: Flower starts some in sessions of their own."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


@contextlib.contextmanager
def running(command: list[str], log: Path, env: dict[str, str]) -> Iterator[None]:
    """Run a process and all that it starts, until the block ends."""
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, env=env, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield
        finally:
            for pid in [process.pid, *descendants(process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            process.wait(10)


def wait_for(port: int, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port}")


def logs(folder: Path) -> str:
    return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(folder.glob("*.log")))


def test_superlink_and_clients_on_loopback_reject_the_poisoned_client(tmp_path: Path) -> None:
    out, app = tmp_path / "out.json", tmp_path / "app"
    env = environment(tmp_path, out, "multikrum")
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    shutil.copy(ROOT / "tests/engine/interop/federation.py", app)
    link, fleet, *nodes = free_ports(2 + CLIENTS)
    (tmp_path / "flwr").mkdir()
    settings = f'[superlink]\ndefault = "loop"\n[superlink.loop]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    (tmp_path / "flwr/config.toml").write_text(settings)
    at, fleet_at = f"127.0.0.1:{link}", f"127.0.0.1:{fleet}"
    by_grpc = Version(version("flwr")) < Version("1.40")
    served, to = (["--fleet-api-address", fleet_at], ["--grpc-rere"]) if by_grpc else ([], [])
    with contextlib.ExitStack() as stack:
        here = ["--insecure", "--host", "127.0.0.1", "--port"]
        link_command = ["flower-superlink", *here, str(link), *served, "--disable-runtime-dependency-installation"]
        stack.enter_context(running(link_command, tmp_path / "superlink.log", env))
        wait_for(link)
        if by_grpc:
            wait_for(fleet)
        to += ["--superlink", fleet_at if by_grpc else at]
        for client, port in enumerate(nodes):
            command = ["flower-supernode", *here, str(port), *to, "--node-config", f"partition-id={client}"]
            stack.enter_context(running(command, tmp_path / f"node{client}.log", env))
        started = subprocess.run(
            ["flwr", "run", str(app), "loop"], env=env, capture_output=True, text=True, timeout=180, check=False
        )
        assert started.returncode == 0, started.stdout + started.stderr
        end = time.monotonic() + 600
        while not out.exists() and time.monotonic() < end:
            time.sleep(0.5)
        assert out.exists(), logs(tmp_path)
    check_rejected(told(out))
