"""Any defense as a scikit-learn estimator: rows are updates, and dropped rows are outliers.

Axes: N clients, D parameters.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin

from rflbat.aggregation import aggregate
from rflbat.defenses.registry import make_defense
from rflbat.errors import UserError


def _rows(X: Any) -> Any:
    """Convert lists and integers to float arrays, as estimators do; leave other input to ``aggregate``."""
    if hasattr(X, "__dlpack__") and not isinstance(X, np.ndarray):
        return X
    if hasattr(X, "toarray"):
        raise UserError(f"X is a sparse {type(X).__name__}; expected a dense matrix, such as X.toarray()")
    try:
        rows_ND = X if isinstance(X, np.ma.MaskedArray) else np.asarray(X)
        if rows_ND.dtype.kind == "f":
            return rows_ND
        return rows_ND.astype(np.float64, casting="safe" if rows_ND.dtype.kind == "c" else "unsafe")
    except (TypeError, ValueError) as error:
        raise UserError(f"X is a {type(X).__name__}; expected a dense matrix of real numbers ({error})") from None


class DefenseAggregator(OutlierMixin, BaseEstimator):
    """A defense that is fitted to the updates of a round.

    ``aggregate_ = sum_i weights_i X_i``. With ``partial_fit`` a defense with memory continues from the earlier rounds,
    where row i is client i.

    Args:
        defense: a name from ``rflbat list defenses``.
        params: its parameters, as in ``rflbat show NAME``; a mapping, or None for the defaults.
        seed: key of the random draws of the first round; each ``partial_fit`` uses the next seed.

    After fitting:
        ``aggregate_`` (D,); ``kept_`` (N,) bool; ``weights_`` (N,), which sum to 1, or to 0 if no row is kept;
        ``scores_`` (N,), the defense's scores (each defense documents its own); ``stage_`` (N,), the name of the stage
        that rejected a row, or "kept"; ``state_`` for the next round; ``rounds_`` and ``n_features_in_``.

    Example:
        >>> rows = [[1.0, 2.0], [1.1, 2.0], [0.9, 2.1], [1.0, 1.9], [50.0, -70.0]]
        >>> krum = DefenseAggregator("multikrum", {"f": 1, "m": 4})
        >>> krum.fit_predict(rows).tolist()
        [1, 1, 1, 1, -1]
        >>> krum.aggregate_.tolist()
        [1.0, 2.0]
    """

    def __init__(self, defense: str = "rflbat", params: Mapping[str, object] | None = None, seed: int = 0) -> None:
        self.defense = defense
        self.params = params
        self.seed = seed

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the defense to a round of updates; earlier fits are discarded.

        Args:
            X: ``(N, D)`` updates: an array, a list of lists, or any object with DLPack. NaN or Inf drops a row.
            y: ignored; accepted for pipelines.
            sample_weight: ``(N,)`` number of samples of each client, 1e-15 to 1e18; equal by default.

        Returns:
            the estimator.

        Raises:
            UserError: an unknown defense or parameter, or input of the wrong shape or dtype.
        """
        return self._judge(_rows(X), sample_weight, None, 0)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the defense to the next round, starting from the state of the earlier rounds.

        Args:
            X: as for ``fit``, with the same number of columns.
            y: ignored.
            sample_weight: as for ``fit``.

        Returns:
            the estimator.

        Raises:
            UserError: as for ``fit``, or the rows do not match the earlier rounds.
        """
        rows_ND = _rows(X)
        if not hasattr(self, "state_"):
            return self._judge(rows_ND, sample_weight, None, 0)
        if len(rows_ND.shape) == 2 and rows_ND.shape[1] != self.n_features_in_:
            raise UserError(
                f"X has {rows_ND.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                f"features as input, as in the earlier rounds"
            )
        return self._judge(rows_ND, sample_weight, self.state_, self.rounds_)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> NDArray[np.int64]:
        """Fit the defense to a round and return labels like an outlier detector.

        Args:
            X: as for ``fit``.
            y: ignored.
            sample_weight: as for ``fit``.

        Returns:
            ``(N,)``: 1 for a kept row, -1 for a dropped one.

        Raises:
            UserError: as for ``fit``.
        """
        return np.where(self.fit(X, y, sample_weight).kept_, 1, -1)

    def _judge(self, rows_ND: Any, sizes: Any, state: Any, rounds: int) -> Self:
        params: dict[str, Any] = dict(self.params or {})
        done = aggregate(rows_ND, self.defense, sizes=sizes, state=state, seed=self.seed + rounds, **params)
        names = np.array(make_defense(self.defense, params).stages)
        self.aggregate_ = done.update.cpu().numpy()
        self.kept_, self.weights_, self.scores_ = (
            value.cpu().numpy() for value in (done.kept, done.weights, done.scores)
        )
        self.stage_ = names[done.trace["stage"].cpu().numpy()]
        self.state_, self.rounds_, self.n_features_in_ = done.state, rounds + 1, len(self.aggregate_)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
