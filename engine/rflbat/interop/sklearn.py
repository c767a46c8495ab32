"""Any defense as an estimator of scikit-learn: rows are updates, and dropped ones are outliers.

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
    """Take lists and whole numbers, as estimators do; what ``aggregate`` takes stays as it is."""
    if hasattr(X, "__dlpack__") and not isinstance(X, np.ndarray):
        return X
    if hasattr(X, "toarray"):
        raise UserError(f"X is a sparse {type(X).__name__}; wanted is a dense matrix, such as X.toarray()")
    try:
        rows_ND = X if isinstance(X, np.ma.MaskedArray) else np.asarray(X)
        if rows_ND.dtype.kind == "f":
            return rows_ND
        return rows_ND.astype(np.float64, casting="safe" if rows_ND.dtype.kind == "c" else "unsafe")
    except (TypeError, ValueError) as error:
        raise UserError(f"X is a {type(X).__name__}; wanted is a dense matrix of real numbers ({error})") from None


class DefenseAggregator(OutlierMixin, BaseEstimator):
    """A defense that is fitted to the updates of a round.

    ``aggregate_ = sum_i weights_i X_i``; with ``partial_fit`` a defense with memory goes on from the rounds before,
    row i being client i.

    Args:
        defense: a name of ``rflbat list defenses``.
        params: its parameters, as in ``rflbat show NAME``; a mapping, or None for the values by default.
        seed: key of the draws of the first round; each ``partial_fit`` goes on to the next.

    After fitting:
        ``aggregate_`` (D,), ``kept_`` (N,) bool, ``weights_`` (N,) with sum 1, or 0 if nobody is kept, ``scores_`` (N,)
        by which the defense judged (their meaning is the defense's), ``stage_`` (N,) the name of the stage at which a
        row fell or "kept", ``state_`` for the next round, ``rounds_`` and ``n_features_in_``.

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
        """Judge a round of updates, whatever was fitted before.

        Args:
            X: ``(N, D)`` updates: an array, a list of lists, or anything with DLPack; NaN and Inf drop a row.
            y: ignored; there for pipelines.
            sample_weight: ``(N,)`` number of samples of each client, 1e-15 to 1e18; equal by default.

        Returns:
            itself.

        Raises:
            UserError: an unknown defense or parameter, or input of the wrong shape or type.
        """
        return self._judge(_rows(X), sample_weight, None, 0)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Judge the next round, from the state that the rounds before left.

        Args:
            X: as for ``fit``, with the same number of columns.
            y: ignored.
            sample_weight: as for ``fit``.

        Returns:
            itself.

        Raises:
            UserError: as for ``fit``, or the rows do not fit the rounds before.
        """
        rows_ND = _rows(X)
        if not hasattr(self, "state_"):
            return self._judge(rows_ND, sample_weight, None, 0)
        if len(rows_ND.shape) == 2 and rows_ND.shape[1] != self.n_features_in_:
            raise UserError(
                f"X has {rows_ND.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                f"features as input: those of the rounds before"
            )
        return self._judge(rows_ND, sample_weight, self.state_, self.rounds_)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> NDArray[np.int64]:
        """Judge a round, and give what outlier detectors give.

        Args:
            X: as for ``fit``.
            y: ignored.
            sample_weight: as for ``fit``.

        Returns:
            ``(N,)``: 1 for a row that is kept, -1 for one that is dropped.

        Raises:
            UserError: as for ``fit``.
        """
        return np.where(self.fit(X, y, sample_weight).kept_, 1, -1)

    def _judge(self, rows_ND: Any, sizes: Any, state: Any, rounds: int) -> Self:
        params = dict(self.params or {})
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
