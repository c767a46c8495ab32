"""Any defense as a strategy of Flower's Message API. It needs the package flwr: pip install 'rflbat[flower]'.

Axes: N replies that can be read, D parameters in floating-point arrays.
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
"""Why flwr does not load, told to whoever makes a strategy."""
try:
    from flwr.app import Array, ArrayRecord, MetricRecord
    from flwr.serverapp.strategy import FedAvg

    Base = FedAvg
except ImportError as error:
    MISSING = error

Arrays = dict[str, NDArray[Any]]
log = getLogger(__name__)


def read_reply(content: Any, sent: Arrays, size_key: str) -> tuple[Arrays, float] | None:
    """Read what one node sent, trusting nothing of it.

    Args:
        content: the reply's records.
        sent: the global arrays by name.
        size_key: the metric that tells the number of samples.

    Returns:
        its arrays by name and its number of samples; None unless there is exactly one record of arrays, with the
        names, shapes and types that were sent, and exactly one of metrics, with a size from 1e-15 to 1e18.
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
    """Write the floating-point arrays of ``arrays - sent`` behind one another, in the order of ``sent``."""
    with np.errstate(all="ignore"):  # what overflows is not finite, and such rows fall
        return np.concatenate(
            [(arrays[name].astype(dtype) - sent[name].astype(dtype)).ravel() for name in floats(sent)]
        )


def floats(arrays: Arrays) -> list[str]:
    """Name the floating-point arrays."""
    return [name for name, array in arrays.items() if array.dtype.kind == "f"]


class DefenseStrategy(Base):
    """FedAvg of Flower with a defense in place of the mean.

    ``global <- global + update``, the update being the defense's of ``local_i - global`` over all floating-point
    arrays. Whole numbers, such as the counters of batch normalisation, become the mean of the kept nodes' under the
    defense's weights, rounded. Nodes are sampled, and evaluation is aggregated, as in FedAvg.

    Replies are put in the order of the node ids, so the order of their arrival does not matter. A simulation gives its
    nodes new ids at each start: for runs that repeat bit by bit let the clients report, say, their
    ``partition-id`` as a metric, and name it in ``order_by``.
    The memory of a defense goes by node id; it grows with each node that is seen for the first time.

    A node that sends an error, other arrays than the model's, or no sensible number of samples, is left out, counted.
    A round with fewer replies than the defense needs, or of which nobody is kept, leaves the global arrays as they are.
    The number of samples is what a node says of itself.

    Args:
        defense: a name of ``rflbat list defenses``.
        params: its parameters, as in ``rflbat show NAME``.
        seed: key of the draws; each round draws others.
        clean: ``(M, D)`` tensor of honest updates, for a defense that learns what such look like (autoencoder).
        order_by: a metric of the replies by which they are ordered before the node id; None for the id alone.
        options: those of Flower's FedAvg, such as ``fraction_train``, ``min_train_nodes``, ``weighted_by_key``.

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
        """Remember the global arrays, and sample nodes as FedAvg does."""
        if not floats({name: array.numpy() for name, array in arrays.items()}):
            raise UserError("none of the model's arrays is of a floating-point type; a defense needs at least one")
        self.sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """Judge the replies.

        Args:
            server_round: round, from 1.
            replies: messages of the nodes, in any order.

        Returns:
            the next global arrays, and metrics: ``kept``, ``dropped``, ``errors`` and ``malformed`` count nodes;
            ``node-ids`` lists those that were judged, in order, with their ``weights`` and ``scores``; and
            ``dropped-at-STAGE`` lists the nodes that fell at a stage.
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
                "round %d: %s needs %d clients, and %d replies can be read; the model stays as it is",
                *(server_round, self.memory.defense.name, self.memory.defense.min_clients, len(read)),
            )
            return self.sent, MetricRecord({**metrics, "kept": 0, "dropped": len(read)})
        return self._judge(server_round, sent, read, metrics)

    def _place(self, reply: Any) -> tuple[float, int]:
        """Where a reply stands in the order; one without a sensible place comes last."""
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
            log.warning("round %d: nobody is kept; the model stays as it is", server_round)
            return self.sent, MetricRecord(metrics)
        held = [(arrays, weight) for (arrays, _), weight in zip(read.values(), metrics["weights"], strict=True)]
        arrays = moved(sent, decision.update.numpy(), held)
        return ArrayRecord({name: Array(array) for name, array in arrays.items()}), MetricRecord(metrics)


def moved(sent: Arrays, update_D: NDArray[Any], held: list[tuple[Arrays, float]]) -> Arrays:
    """Add an update to the floating-point arrays; the others become the weighted mean, rounded.

    Args:
        sent: the global arrays by name.
        update_D: in the order of ``flat``.
        held: each node's arrays and weight; the weights sum to 1, and those of weight 0 are not looked at.

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
