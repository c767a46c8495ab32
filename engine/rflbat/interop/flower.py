"""Any defense as a strategy of Flower's Message API. It needs the package flwr: pip install 'rflbat[flower]'.

Axes: N readable replies, D parameters in floating-point arrays.
"""

from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rflbat.aggregation import FEWEST, MOST
from rflbat.errors import UserError
from rflbat.interop.node_memory import NodeMemory

Base: Any = object
MISSING: ImportError | None = None
"""The error if flwr could not be imported; the constructor of a strategy reports it."""
try:
    from flwr.app import Array, ArrayRecord, MetricRecord
    from flwr.serverapp.strategy import FedAvg

    Base = FedAvg
except ImportError as error:
    MISSING = error

Arrays = dict[str, NDArray[Any]]
log = getLogger(__name__)


def read_reply(content: Any, sent: Arrays, size_key: str) -> tuple[Arrays, float] | None:
    """Read a node's reply without trusting it.

    Args:
        content: the reply's records.
        sent: the global arrays by name.
        size_key: the metric that holds the number of samples.

    Returns:
        the node's arrays by name and its number of samples. None unless there is exactly one record of arrays, with the
        names, shapes and dtypes of ``sent``, and exactly one of metrics, with a size from 1e-15 to 1e18.
    """
    try:
        (record,), (metrics,) = content.array_records.values(), content.metric_records.values()
        arrays = {name: array.numpy() for name, array in record.items()}
        size = float(metrics[size_key])
    except Exception:  # a node can send anything
        return None
    kinds = [{name: (array.shape, array.dtype) for name, array in held.items()} for held in (sent, arrays)]
    return (arrays, size) if kinds[0] == kinds[1] and FEWEST <= size <= MOST else None


def flat(arrays: Arrays, sent: Arrays, dtype: type) -> NDArray[Any]:
    """Concatenate the floating-point arrays of ``arrays - sent`` to a vector, in the order of ``sent``."""
    with np.errstate(all="ignore"):  # an overflow gives a non-finite row, which the defense drops
        return np.concatenate(
            [(arrays[name].astype(dtype) - sent[name].astype(dtype)).ravel() for name in floats(sent)]
        )


def floats(arrays: Arrays) -> list[str]:
    """Return the names of the floating-point arrays."""
    return [name for name, array in arrays.items() if array.dtype.kind == "f"]


class DefenseStrategy(Base):
    """Flower's FedAvg with a defense in place of the mean.

    ``global <- global + update``, where the update is the defense's aggregate of ``local_i - global`` over all
    floating-point arrays. Integer arrays, such as the counters of batch normalisation, become the rounded mean of the
    kept nodes' arrays under the defense's weights. Sampling of nodes and aggregation of evaluation results are
    FedAvg's.

    Replies are sorted by node id, so their order of arrival does not matter. A simulation assigns new node ids at each
    start. For bit-identical runs, let the clients report a metric such as their ``partition-id``, and name it in
    ``order_by``. The state of a defense is stored by node id and grows with each new node.

    A node that reports an error, arrays that differ from the model's, or an invalid number of samples is left out and
    counted. A round with fewer replies than the defense needs, or in which no node is kept, leaves the global arrays
    unchanged. The number of samples is reported by the node itself and is not verified.

    Args:
        defense: a name from ``rflbat list defenses``.
        params: its parameters, as in ``rflbat show NAME``.
        seed: key of the random draws, which differ in each round.
        clean: ``(M, D)`` tensor of honest updates, for a defense that learns from clean updates (autoencoder).
        order_by: metric by which replies are sorted before the node id; None sorts by node id only.
        options: options of Flower's FedAvg, such as ``fraction_train``, ``min_train_nodes``, ``weighted_by_key``.

    Raises:
        UserError: flwr is not installed, or an unknown defense or parameter.

    Example:
        ``DefenseStrategy("multikrum", {"f": 1}, min_train_nodes=8).start(grid, initial_arrays, num_rounds=10)``
    """

    def __init__(
        self,
        defense: str = "rflbat",
        params: Mapping[str, object] | None = None,
        *,
        seed: int = 0,
        clean: Tensor | None = None,
        order_by: str | None = None,
        **options: Any,
    ) -> None:
        if MISSING is not None:
            raise UserError(
                f"the strategy needs the package flwr, which does not load ({MISSING}): pip install 'rflbat[flower]'"
            )
        super().__init__(**options)
        self.memory = NodeMemory(defense, params or {}, seed, clean)
        self.order_by = order_by
        self.sent: Any = None

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        """Store the global arrays, and sample nodes as FedAvg does."""
        if not floats({name: array.numpy() for name, array in arrays.items()}):
            raise UserError("the model has no floating-point array; a defense needs at least one")
        self.sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """Aggregate the replies of a round under the defense.

        Args:
            server_round: round, from 1.
            replies: messages of the nodes, in any order.

        Returns:
            the next global arrays, and metrics. ``kept``, ``dropped``, ``errors`` and ``malformed`` count nodes;
            ``node-ids`` lists the nodes with readable replies, in order, with their ``weights`` and ``scores``;
            ``dropped-at-STAGE`` lists the nodes rejected at a stage.
        """
        replies = sorted(replies, key=self._place)
        answers = [reply for reply in replies if not reply.has_error()]
        sent = {name: array.numpy() for name, array in self.sent.items()}
        read: dict[int, tuple[Arrays, float]] = {}
        for reply in answers:
            node, one = reply.metadata.src_node_id, read_reply(reply.content, sent, self.weighted_by_key)
            if one is not None and node not in read:
                read[node] = one
        metrics: dict[str, Any] = {
            "errors": len(replies) - len(answers),
            "malformed": len(answers) - len(read),
            "node-ids": list(read),
        }
        if len(read) < self.memory.defense.min_clients:
            log.warning(
                "round %d: %s needs at least %d clients; got %d readable replies; the global model is unchanged",
                *(server_round, self.memory.defense.name, self.memory.defense.min_clients, len(read)),
            )
            return self.sent, MetricRecord({**metrics, "kept": 0, "dropped": len(read)})
        return self._judge(server_round, sent, read, metrics)

    def _place(self, reply: Any) -> tuple[float, int]:
        """Return the sort key of a reply; replies without a valid metric come last."""
        try:
            (metrics,) = reply.content.metric_records.values() if self.order_by else ({},)
            place = float(metrics[self.order_by]) if self.order_by else 0.0
        except Exception:  # a node can send anything
            place = np.inf
        return (place if place == place else np.inf, reply.metadata.src_node_id)

    def _judge(
        self, server_round: int, sent: Arrays, read: dict[int, tuple[Arrays, float]], metrics: dict[str, Any]
    ) -> tuple[Any, Any]:
        wide = any(sent[name].dtype.itemsize > 4 for name in floats(sent))
        dtype: type = np.float64 if wide else np.float32
        updates_ND = torch.from_numpy(np.stack([flat(arrays, sent, dtype) for arrays, _ in read.values()]))
        decision = self.memory.judge(list(read), updates_ND, [size for _, size in read.values()], server_round)
        kept, stage = decision.kept.tolist(), decision.trace["stage"].tolist()
        metrics |= {
            "kept": sum(kept),
            "dropped": len(kept) - sum(kept),
            "weights": decision.weights.tolist(),
            "scores": decision.scores.to(torch.float64).tolist(),
        }
        for position, name in enumerate(self.memory.stages):
            if fallen := [
                node for node, at, held in zip(read, stage, kept, strict=True) if at == position and not held
            ]:
                metrics[f"dropped-at-{name}"] = fallen
        if not any(kept):
            log.warning("round %d: no client is kept; the global model is unchanged", server_round)
            return self.sent, MetricRecord(metrics)
        held = [(arrays, weight) for (arrays, _), weight in zip(read.values(), metrics["weights"], strict=True)]
        arrays = moved(sent, decision.update.numpy(), held)
        return ArrayRecord({name: Array(array) for name, array in arrays.items()}), MetricRecord(metrics)


def moved(sent: Arrays, update_D: NDArray[Any], held: list[tuple[Arrays, float]]) -> Arrays:
    """Add an update to the floating-point arrays; integer arrays become the weighted mean, rounded.

    Args:
        sent: the global arrays by name.
        update_D: in the order of ``flat``.
        held: each node's arrays and weight. The weights sum to 1; arrays of weight 0 are not read.

    Returns:
        the next global arrays.
    """
    after: Arrays = {}
    start = 0
    for name, array in sent.items():
        if array.dtype.kind == "f":
            step = update_D[start : start + array.size].reshape(array.shape)
            after[name] = np.asarray(array.astype(update_D.dtype) + step).astype(array.dtype)
            start += array.size
        else:
            mean = sum(weight * arrays[name].astype(np.float64) for arrays, weight in held if weight > 0)
            after[name] = np.asarray(np.rint(mean)).astype(array.dtype)
    return after
