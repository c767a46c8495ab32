"""Naive Bayes on the counts of words, for comparison with the LSTM: ``python -m benchmarks.paper.naive_bayes``."""

from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor

from benchmarks.paper.__main__ import RESULTS
from benchmarks.paper.ledger import write_csv
from benchmarks.paper.scenarios import TEXTS
from rflbat.data.registry import load
from rflbat.experiment.recipes import RECIPES
from rflbat.round.setup import resolve

COLUMNS = ("dataset", "accuracy")


def counts(x: Tensor, words: int) -> csr_matrix:
    """Count the words of each text; padding is not counted.

    Args:
        x: token ids ``(n, T)``.
        words: size of the vocabulary.

    Returns:
        sparse ``(n, words)``.
    """
    text, place = np.nonzero(x.numpy())
    token = x.numpy()[text, place]
    return csr_matrix((np.ones(len(token)), (text, token)), shape=(len(x), words))


def main() -> None:
    """Fit and test on the LSTM's tokens, and write ``naive_bayes.csv``."""
    rows = []
    for name in TEXTS:
        experiment = resolve(RECIPES[name]())
        data = load(name, Path(experiment.data_dir) if experiment.data_dir else None, experiment.load_args.items())
        assert data.words is not None
        fitted = MultinomialNB().fit(counts(data.train_x, len(data.words)), data.train_y.numpy())
        accuracy = fitted.score(counts(data.test_x, len(data.words)), data.test_y.numpy())
        rows.append({"dataset": name, "accuracy": f"{accuracy:.6f}"})
        print(f"{name} {accuracy:.3f}")
    write_csv(RESULTS / "naive_bayes.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
