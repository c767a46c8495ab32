"""MLflow, through its client class, so that an active MLflow run of the caller is not affected."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rflbat.trackers.base import Sink

EXPERIMENT = "rflbat"


def mlflow(name: str, folder: Path, settings: Mapping[str, Any]) -> Sink:
    """Log to MLflow: to the server or store in ``MLFLOW_TRACKING_URI``, otherwise to MLflow's default.

    Args:
        name: name of the run.
        folder: unused, because MLflow has its own store.
        settings: the resolved settings, stored as parameters of the run.

    Returns:
        the sink.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
    run = client.create_run(experiment, run_name=name).info.run_id
    for key, value in settings.items():
        client.log_param(run, key, value)

    def log(values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            client.log_metric(run, key, value, step=step)

    def finish(summary: Mapping[str, float] | None) -> None:
        for key, value in (summary or {}).items():
            client.log_metric(run, f"summary/{key}", value)
        client.set_terminated(run, "FINISHED" if summary is not None else "KILLED")

    return Sink(log, finish)
