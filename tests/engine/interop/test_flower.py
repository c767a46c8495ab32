"""The strategy on messages made by hand: order, memory, and nodes that send what they should not."""

import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rflbat.interop
from rflbat import UserError, aggregate

NODES = [90, 20, 50, 70, 30, 10]


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are made inside a run of Flower; here it is this one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("flwr") is None:
            return
        identity = importlib.import_module("flwr.supercore.task_identity").TaskIdentity
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(identity, name, 1)


def strategy(*arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what flwr imports warns of its own dependencies
        pytest.importorskip("flwr.serverapp", reason="needs rflbat[flower]")
        return importlib.import_module("rflbat.interop.flower").DefenseStrategy(*arguments, **options)


def model() -> dict[str, Any]:
    draws = np.random.default_rng(0)
    return {
        "conv": draws.normal(size=(3, 2, 2)).astype(np.float32),
        "seen": np.array(7, np.int64),
        "scale": np.array(0.5, np.float32),
        "bias": draws.normal(size=5).astype(np.float32),
    }


def local(node: int) -> dict[str, Any]:
    draws = np.random.default_rng(node)
    moved = {
        name: np.asarray(array + draws.normal(size=array.shape)).astype(array.dtype) for name, array in model().items()
    }
    return moved | {"seen": np.array(node, np.int64)}


def message(node: int, arrays: Any, metrics: Any) -> Any:
    from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict

    asked = Message(RecordDict(), dst_node_id=node, message_type=MessageType.TRAIN)
    record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return Message(RecordDict({"arrays": record, "metrics": MetricRecord(metrics)}), reply_to=asked)


def failure(node: int) -> Any:
    from flwr.app import Error, Message, MessageType, RecordDict

    return Message(Error(1, "out of memory"), reply_to=Message(RecordDict(), node, MessageType.TRAIN))


def replies(nodes: list[int] = NODES) -> list[Any]:
    return [message(node, local(node), {"num-examples": node}) for node in nodes]


def sent(chosen: Any) -> Any:
    """A strategy that has sent the global arrays."""
    from flwr.app import Array, ArrayRecord

    chosen.sent = ArrayRecord({name: Array(array) for name, array in model().items()})
    return chosen


def numpy(arrays: Any) -> dict[str, Any]:
    return {name: array.numpy() for name, array in arrays.items()}


def rows(nodes: list[int]) -> Any:
    names = ["conv", "scale", "bias"]
    return np.stack([np.concatenate([(local(n)[name] - model()[name]).ravel() for name in names]) for n in nodes])


@pytest.mark.parametrize("defense", ["fedavg", "median", "krum", "trimmed_mean"])
def test_numbers_are_those_of_aggregate_in_the_order_of_the_ids(defense: str) -> None:
    after, metrics = sent(strategy(defense)).aggregate_train(1, replies())
    order = sorted(NODES)
    assert metrics["node-ids"] == order
    wanted = aggregate(rows(order), defense, sizes=order)
    assert metrics["weights"] == wanted.weights.tolist()
    have = np.concatenate([(numpy(after)[name] - model()[name]).ravel() for name in ("conv", "scale", "bias")])
    np.testing.assert_allclose(have, wanted.update.numpy(), rtol=1e-5, atol=1e-6)
    for name, array in model().items():
        assert (numpy(after)[name].shape, numpy(after)[name].dtype) == (array.shape, array.dtype)
    mean = sum(weight * node for weight, node in zip(metrics["weights"], order, strict=True))
    assert numpy(after)["seen"] == round(mean)


def test_order_of_arrival_changes_nothing() -> None:
    first = sent(strategy("rflbat")).aggregate_train(1, replies())
    second = sent(strategy("rflbat")).aggregate_train(1, replies()[::-1])
    assert first[1] == second[1]
    for name, array in numpy(first[0]).items():
        np.testing.assert_array_equal(array, numpy(second[0])[name])


def test_order_by_a_metric() -> None:
    chosen = sent(strategy("fedavg", order_by="place"))
    asked = [message(node, local(node), {"num-examples": 1, "place": -node}) for node in NODES]
    _, metrics = chosen.aggregate_train(1, asked)
    assert metrics["node-ids"] == sorted(NODES, reverse=True)


def poisoned() -> dict[str, Any]:
    return {
        name: array if array.dtype == np.int64 else np.asarray(array * np.float32(500))
        for name, array in local(50).items()
    }


def test_dropped_nodes_are_named_with_their_stage() -> None:
    chosen = sent(strategy("multikrum", {"f": 1, "m": 4}))
    asked = [message(50, poisoned(), {"num-examples": 50}), *replies([10, 20, 30, 70])]
    broken = local(90) | {"bias": np.full(5, np.nan, np.float32)}
    asked.append(message(90, broken, {"num-examples": 90}))
    after, metrics = chosen.aggregate_train(1, asked)
    assert (metrics["kept"], metrics["dropped"], metrics["errors"], metrics["malformed"]) == (4, 2, 0, 0)
    assert metrics["dropped-at-nonfinite"] == [90]
    assert [nodes for name, nodes in metrics.items() if name.startswith("dropped-at-")] == [[90], [50]]
    assert max(np.abs(array).max() for name, array in numpy(after).items() if name != "seen") < 10


STRANGE: dict[str, Callable[[], Any]] = {
    "other names": lambda: message(99, {"w": np.ones(2)}, {"num-examples": 1}),
    "other shape": lambda: message(99, local(1) | {"bias": np.ones(6, np.float32)}, {"num-examples": 1}),
    "other type": lambda: message(99, local(1) | {"bias": np.ones(5)}, {"num-examples": 1}),
    "no size": lambda: message(99, local(1), {"loss": 1.0}),
    "no samples": lambda: message(99, local(1), {"num-examples": 0}),
    "negative": lambda: message(99, local(1), {"num-examples": -5}),
    "not a number": lambda: message(99, local(1), {"num-examples": float("nan")}),
    "too many": lambda: message(99, local(1), {"num-examples": 1e30}),
    "a list": lambda: message(99, local(1), {"num-examples": [1, 2]}),
    "twice": lambda: message(10, local(1), {"num-examples": 1}),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_cannot_be_read_is_left_out_and_counted(kind: str) -> None:
    chosen = sent(strategy("fedavg"))
    after, metrics = chosen.aggregate_train(1, [*replies(), STRANGE[kind]()])
    wanted, clean = sent(strategy("fedavg")).aggregate_train(1, replies())
    assert (metrics["malformed"], metrics["errors"], metrics["kept"]) == (1, 0, len(NODES))
    assert metrics["weights"] == clean["weights"]
    np.testing.assert_array_equal(numpy(after)["conv"], numpy(wanted)["conv"])


def test_errors_are_left_out_and_counted() -> None:
    for order_by in (None, "num-examples"):
        _, metrics = sent(strategy("fedavg", order_by=order_by)).aggregate_train(1, [failure(5), *replies()])
        assert (metrics["errors"], metrics["malformed"], metrics["kept"]) == (1, 0, len(NODES))


def test_the_model_stays_where_nobody_is_kept_or_too_few_reply() -> None:
    chosen = sent(strategy("fedavg"))
    broken = [
        message(node, local(node) | {"bias": np.full(5, np.inf, np.float32)}, {"num-examples": 1}) for node in NODES
    ]
    for asked in (broken, [], [failure(1)]):
        after, metrics = chosen.aggregate_train(1, asked)
        assert after is chosen.sent
        assert metrics["kept"] == 0
    few = sent(strategy("multikrum", {"f": 1, "m": 3}))
    after, metrics = few.aggregate_train(1, replies([10, 20]))
    assert after is few.sent
    assert (metrics["kept"], metrics["dropped"]) == (0, 2)


def test_memory_goes_by_node() -> None:
    chosen = sent(strategy("foolsgold"))
    chosen.aggregate_train(1, replies([50, 10, 30]))
    _, later = chosen.aggregate_train(2, replies([70, 30, 20]))
    both = np.stack([rows([20])[0], 2 * rows([30])[0], rows([70])[0]])
    assert later["weights"] == pytest.approx(aggregate(both, "foolsgold").weights.tolist())
    assert chosen.memory.rows == {10: 0, 30: 1, 50: 2, 20: 3, 70: 4}


def test_a_missing_flwr_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    for name in [name for name in sys.modules if name.startswith("flwr.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "rflbat.interop.flower", raising=False)
    monkeypatch.delattr(rflbat.interop, "flower", raising=False)
    module = importlib.import_module("rflbat.interop.flower")
    monkeypatch.delitem(sys.modules, "rflbat.interop.flower")
    with pytest.raises(UserError, match=r"pip install 'rflbat\[flower\]'"):
        module.DefenseStrategy("fedavg")


def test_rflbat_alone_does_not_load_flower() -> None:
    code = "import sys, rflbat, rflbat.interop, rflbat.interop.sklearn; assert 'flwr' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
