"""Records of a round: one line for the round, one per client, and one per shadow defense.

Here the results of a round leave the device. Axes: N clients of the round.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from rflbat.defenses.base import Decision
from rflbat.round.state import Federation, RoundOutcome
from rflbat.storage.schema import DETECTION, LOCAL, MEASURES
from rflbat.transfer import transfer


def download(outcome: RoundOutcome) -> RoundOutcome:
    """Copy everything that is recorded of a round to the host, in a single transfer.

    This is where the host waits for the device.

    Args:
        outcome: as returned by ``run_round``.

    Returns:
        the same outcome, on the host except for the updates and states of the decisions, which stay on the device.
    """
    decided = [(outcome.decision, outcome.measures), *((each.decision, each.measures) for each in outcome.shadows)]
    recorded = [_recorded(decision, measures) for decision, measures in decided]
    parts = {f"{at}.{name}": part for at, named in enumerate(recorded) for name, part in named.items()}
    host = transfer({**parts, "discarded": outcome.discarded}, "cpu")
    (decision, measures), *others = (
        _on_host(decision, {name: host[f"{at}.{name}"] for name in recorded[at]})
        for at, (decision, _) in enumerate(decided)
    )
    shadows = tuple(
        replace(shadow, decision=own, measures=measured)
        for shadow, (own, measured) in zip(outcome.shadows, others, strict=True)
    )
    return replace(outcome, decision=decision, discarded=host["discarded"], measures=measures, shadows=shadows)


def _recorded(decision: Decision, measures: Tensor | None) -> dict[str, Tensor]:
    """Name the tensors that are recorded of a decision and of the global model under it."""
    named = {"kept": decision.kept, "weights": decision.weights, "scores": decision.scores}
    named |= {f"trace.{name}": tensor for name, tensor in decision.trace.items()}
    return named if measures is None else {**named, "measures": measures}


def _on_host(decision: Decision, named: Mapping[str, Tensor]) -> tuple[Decision, Tensor | None]:
    """Replace the tensors of ``_recorded`` by their copies on the host; returns the decision and the measures."""
    own = {name: named[name] for name in ("kept", "weights", "scores")}
    trace = {name.removeprefix("trace."): tensor for name, tensor in named.items() if name.startswith("trace.")}
    return replace(decision, **own, trace=trace), named.get("measures")


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    """Return the share of ``whole`` that is in ``part``; None if ``whole`` is empty."""
    return float((part & whole).sum() / whole.sum()) if whole.any() else None


def round_record(federation: Federation, outcome: RoundOutcome) -> dict[str, Any]:
    """Summarise a round: measures, number of clients rejected at each stage, and detection of the malicious clients.

    Precision is the share of the dropped clients that are malicious, recall the share of the malicious clients that are
    dropped, the false-positive rate the share of the benign clients that are dropped. A rate is None if its denominator
    is zero; ``malicious_weight`` is None for a defense whose update is not a weighted mean. ``move_discarded``: the
    server discarded the update because it would have made the global model non-finite.

    Args:
        federation: names the stages.
        outcome: the round.

    Returns:
        the line of rounds.jsonl; it contains the chunk of clients trained at a time only if memory ran out for the
        planned one.
    """
    decision = outcome.decision
    kept_N, malicious_N = decision.kept.cpu().numpy(), outcome.malicious_N
    at_stage = np.bincount(decision.trace["stage"].cpu().numpy(), minlength=len(federation.defense.stages))
    return {
        "round": outcome.round_number,
        **_rates(outcome.measures, len(federation.attack.local_triggers)),
        "kept": int(kept_N.sum()),
        "dropped": int((~kept_N).sum()),
        "malicious": int(malicious_N.sum()),
        "nonfinite": int(at_stage[1]),
        **_detection(decision, malicious_N, federation.defense.weighs),
        "stages": dict(zip(federation.defense.stages[1:], at_stage[1:].tolist(), strict=True)),
        "nobody_kept": not kept_N.any(),
        "move_discarded": bool(outcome.discarded),
        **({"chunk": outcome.chunk} if outcome.chunk < federation.backend.chunk else {}),
    }


def _rates(measures: Tensor | None, triggers: int) -> dict[str, Any]:
    """Name the measures; rates of local triggers are reported for a distributed backdoor only."""
    # NaN: an untargeted attack has no success rate, or no test sample counts for one.
    values = None if measures is None else [None if math.isnan(value) else value for value in measures.tolist()]
    named = dict(zip(MEASURES, values or [None] * len(MEASURES), strict=False))
    return named if triggers == 1 else {**named, LOCAL: values and values[len(MEASURES) :]}


def _detection(decision: Decision, malicious_N: np.ndarray, weighs: bool) -> dict[str, float | None]:
    """Compute the detection rates of a decision; ``malicious_weight`` is None if the update is not a weighted mean."""
    kept_N, weights_N = decision.kept.cpu().numpy(), decision.weights.cpu().numpy()
    return {
        "precision": _share(malicious_N, ~kept_N),
        "recall": _share(~kept_N, malicious_N),
        "false_positive_rate": _share(~kept_N, ~malicious_N),
        "malicious_weight": float(weights_N[malicious_N].sum()) if weighs else None,
    }


def shadow_records(federation: Federation, outcome: RoundOutcome) -> list[dict[str, Any]]:
    """List the records of the shadow defenses of a round.

    Args:
        federation: the configuration.
        outcome: the round.

    Returns:
        the lines of shadows.jsonl: the clients that the shadow would have kept, detection as in ``round_record``, and
        the measures of the global model after one server update by its decision (None in a round that was not
        evaluated).
    """
    return [
        {
            "round": outcome.round_number,
            "defense": shadow.name,
            **_rates(shadow.measures, len(federation.attack.local_triggers)),
            **_detection(shadow.decision, outcome.malicious_N, defense.weighs),
            "kept": outcome.clients_N[shadow.decision.kept.cpu().numpy()].tolist(),
        }
        for shadow, defense in zip(outcome.shadows, federation.shadows, strict=True)
    ]


def client_records(federation: Federation, outcome: RoundOutcome) -> list[dict[str, Any]]:
    """List the records of a round's clients: role, stage, weight, score and position in the PCA plane.

    Args:
        federation: names the stages and knows the data sizes.
        outcome: the round.

    Returns:
        the lines of clients.jsonl; coordinates and cluster are None for a defense that computes none.
    """
    decision, trace = outcome.decision, outcome.decision.trace
    count = len(outcome.clients_N)
    columns = zip(
        outcome.clients_N.tolist(),
        outcome.malicious_N.tolist(),
        decision.kept.tolist(),
        trace["stage"].tolist(),
        decision.weights.tolist(),
        decision.scores.tolist(),
        trace["coordinates"].tolist() if "coordinates" in trace else [None] * count,
        trace["cluster"].tolist() if "cluster" in trace else [None] * count,
        strict=True,
    )
    return [
        {
            "round": outcome.round_number,
            "client": client,
            "malicious": malicious,
            "kept": kept,
            "stage": federation.defense.stages[stage],
            "weight": weight,
            "score": score,
            "coordinates": coordinates,
            "cluster": cluster,
            "samples": len(federation.client_indices[client]),
        }
        for client, malicious, kept, stage, weight, score, coordinates, cluster in columns
    ]


def summarise(federation: Federation, rounds: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Summarise a run: measures after its last round, and detection averaged over the attacked rounds.

    Args:
        federation: the configuration.
        rounds: all lines of rounds.jsonl.
        seconds: time spent, over all sessions of the run.

    Returns:
        the contents of summary.json.
    """
    experiment = federation.experiment
    attacked = [record for record in rounds if record["malicious"]]
    means = {}
    for key in DETECTION:
        values = [record[key] for record in attacked if record[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return {
        "dataset": experiment.dataset,
        "defense": experiment.defense,
        **{key: rounds[-1][key] for key in (*MEASURES, LOCAL) if key in rounds[-1]},
        "rounds": len(rounds),
        "seconds": seconds,
        **means,
        "nonfinite": sum(record["nonfinite"] for record in rounds),
        "rounds_without_anybody": sum(record["nobody_kept"] for record in rounds),
        "moves_discarded": sum(record["move_discarded"] for record in rounds),
    }
