"""Definitions of the operations of ``pca``, in plain float64 and without care for speed, memory or rounding.

Axes: N rows (clients), D columns (parameters), V valid rows, H components.
"""

import torch
from torch import Tensor

from rflbat_kernels.gram.naive import valid_rows


def pca(gram_NN: Tensor, valid_N: Tensor | None = None, *, components: int = 2) -> Tensor:
    """Compute the scores ``u_k sqrt(lambda_k)`` from the eigenpairs of ``K = H G H`` over the valid rows.

    ``H = I - 11'/n``, eigenvalues in descending order. Invalid rows and components beyond the rank, whose eigenvalue is
    rounding (``n eps trace(G)``), are 0.
    """
    rows_V = valid_rows(valid_N, len(gram_NN))
    gram_VV = gram_NN[rows_V][:, rows_V].to(torch.float64)
    centring_VV = torch.eye(len(rows_V), dtype=torch.float64) - 1 / max(1, len(rows_V))
    values_V, vectors_VV = torch.linalg.eigh(centring_VV @ gram_VV @ centring_VV)
    rounding = len(rows_V) * torch.finfo(torch.float64).eps * gram_VV.trace()
    lengths_V = torch.where(values_V > rounding, values_V, 0.0).sqrt()
    return _finish((vectors_VV * lengths_V).flip(1), rows_V, len(gram_NN), components)


def pca_lowrank(matrix_ND: Tensor, valid_N: Tensor | None = None, *, components: int = 2) -> Tensor:
    """Compute the scores ``U S`` from the singular value decomposition ``U S V'`` of the centred valid rows."""
    rows_V = valid_rows(valid_N, len(matrix_ND))
    matrix_VD = matrix_ND[rows_V].to(torch.float64)
    left_VK, values_K, _ = torch.linalg.svd(matrix_VD - matrix_VD.mean(0), full_matrices=False)
    return _finish(left_VK * values_K, rows_V, len(matrix_ND), components)


def _finish(scores_VK: Tensor, rows_V: Tensor, rows: int, components: int) -> Tensor:
    """Make the entry of largest magnitude of each column positive, and add invalid rows and missing columns as 0."""
    scores_VK = scores_VK[:, :components]
    scores_NH = torch.zeros(rows, components, dtype=torch.float64)
    for k, score_V in enumerate(scores_VK.unbind(1) if len(rows_V) else ()):
        # The first of nearly equal magnitudes, as in ``pca``: two rows always score +a and -a.
        peak = (score_V.abs() >= (1 - 1e-6) * score_V.abs().max()).to(torch.uint8).argmax()
        scores_NH[rows_V, k] = score_V * score_V[peak].sign()
    return scores_NH
