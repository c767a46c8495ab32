"""Aggregation of a matrix of updates under any defense, without a simulation.

Axes: N clients, D parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rflbat.defenses.base import Decision, Defense, Updates, check_clients, state_tensors
from rflbat.defenses.given import is_named, server_view, stacked
from rflbat.defenses.registry import make_defense
from rflbat.errors import UserError
from rflbat.parameters import Layout
from rflbat.randomness import draw_source
from rflbat.transforms.base import before as compose
from rflbat.transforms.registry import make_transforms
from rflbat_kernels import finite_rows

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NUMPY_FLOATS = (np.float16, np.float32, np.float64)
FEWEST, MOST = 1e-15, 1e18
"""Range of a client's number of samples. Within it, with updates up to 1e100, no weight overflows or rounds to 0."""


def _tensor(updates: Any, what: str) -> Tensor:
    """Convert torch, numpy or DLPack input to a tensor, without a copy if torch can view the array's memory."""
    if isinstance(updates, Tensor):
        return updates.detach()
    if isinstance(updates, np.ma.MaskedArray):
        raise UserError(f"{what} are a masked array; expected one without a mask, such as updates.filled(0.0)")
    if isinstance(updates, np.ndarray):
        if updates.dtype not in NUMPY_FLOATS:
            raise UserError(
                f"{what} are of type {updates.dtype}; expected a floating-point type: "
                f"float16, float32 or float64 in native byte order"
            )
        steps = all(step >= 0 and step % updates.itemsize == 0 for step in updates.strides)
        fits = steps and updates.flags.writeable and updates.flags.aligned
        return torch.from_numpy(updates if fits else updates.copy())
    if not hasattr(updates, "__dlpack__"):
        raise UserError(f"{what} are a {type(updates).__name__}; expected a torch tensor, numpy array or DLPack array")
    try:
        return torch.utils.dlpack.from_dlpack(updates)
    except Exception as error:  # other libraries raise exceptions of any type
        reason = str(error).partition("\n")[0]
        raise UserError(f"{what} are a {type(updates).__name__} that cannot be taken by DLPack: {reason}") from error


def _matrix(updates: Any, what: str = "updates") -> Tensor:
    """Convert any array to a dense floating-point matrix."""
    matrix_ND = _tensor(updates, what)
    if matrix_ND.layout != torch.strided or matrix_ND.is_nested:
        raise UserError(f"{what} have the layout {matrix_ND.layout}; expected a dense matrix (clients, parameters)")
    if matrix_ND.ndim != 2 or 0 in matrix_ND.shape:
        raise UserError(f"{what} have the shape {tuple(matrix_ND.shape)}; expected (clients, parameters)")
    if matrix_ND.dtype not in FLOATS:
        raise UserError(
            f"{what} are of type {matrix_ND.dtype}; expected a floating-point type: "
            f"float16, bfloat16, float32 or float64"
        )
    return matrix_ND


def _updates(updates: Any) -> tuple[Tensor, Layout | None]:
    """Read the updates: a matrix, or one state dict or iterable of tensors per client, which also name the columns."""
    if isinstance(updates, list | tuple) and updates:
        items = [list(item) if is_named(item) and not isinstance(item, Mapping) else item for item in updates]
        if all(isinstance(item, Mapping) or (isinstance(item, list) and _are_arrays(item)) for item in items):
            matrix_ND, layout = stacked(items, _tensor)
            return _matrix(matrix_ND), layout
    return _matrix(updates), None


def _are_arrays(items: list[Any]) -> bool:
    return bool(items) and all(hasattr(item, "__dlpack__") for item in items)


def _sizes(sizes: Any, clients: int) -> Tensor:
    """Read the numbers of samples on the host, where they can be checked."""
    if sizes is None:
        return torch.ones(clients, dtype=torch.float64)
    try:
        on_host = sizes.tolist() if isinstance(sizes, Tensor) else sizes
        sizes_N = np.asarray(on_host).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError, RuntimeError):
        kind = type(sizes).__name__
        raise UserError(f"sizes are a {kind} of values that are not real numbers; expected {clients} numbers") from None
    if sizes_N.shape != (clients,):
        raise UserError(f"sizes have the shape {sizes_N.shape}; expected ({clients},), one per client")
    wrong_N = ~((sizes_N >= FEWEST) & (sizes_N <= MOST))
    if wrong_N.any():
        raise UserError(
            f"sizes[{wrong_N.argmax()}] is {sizes_N[wrong_N][0]:g}; expected numbers above 0, "
            f"from {FEWEST:g} to {MOST:g}"
        )
    return torch.from_numpy(sizes_N)


def _check_state(chosen: Defense, state: Any, clients: int, parameters: int) -> None:
    """Reject the state of another defense, of fewer clients or of a different number of parameters."""
    # An axis whose length depends on the number of clients is the client axis. It may be longer than this round needs.
    fresh, larger = (chosen.init(count, parameters, torch.device("meta")) for count in (clients, clients + 1))
    if type(state) is not type(fresh):
        raise UserError(f"the state is a {type(state).__name__}; {chosen.name} expects a {type(fresh).__name__}")
    more = state_tensors(larger)
    for name, wanted in state_tensors(fresh).items():
        shape = getattr(state, name).shape
        axes = zip(shape, wanted.shape, more[name].shape, strict=False)
        fits = [have == want or (have > want != other) for have, want, other in axes]
        if len(shape) != wanted.ndim or not all(fits):
            raise UserError(f"the state's {name} has the shape {tuple(shape)}; expected {tuple(wanted.shape)}")


def _first_state(chosen: Defense, clean: Any, clients: int, parameters: int, device: torch.device, seed: int) -> Any:
    """Build the state before the first round, from clean updates if the defense learns from them."""
    if clean is None:
        if chosen.pretrain is None:
            return chosen.init(clients, parameters, device)
        raise UserError(
            f"{chosen.name} needs clean updates to train on; pass clean= an (M, D) array of updates of honest "
            f"clients, or state= the state of an earlier round"
        )
    if chosen.pretrain is None:
        raise UserError(f"{chosen.name} does not learn from clean updates; omit clean=")
    clean_MD = _matrix(clean, "clean updates")
    if clean_MD.shape[1] != parameters:
        raise UserError(f"clean updates have the shape {tuple(clean_MD.shape)}; expected (any number, {parameters})")
    if not finite_rows(clean_MD).any():
        what = f"all {len(clean_MD)} clean updates hold NaN or Inf, or a number beyond 1e100"
        raise UserError(f"{what}; at least one must be finite")
    return chosen.pretrain(clean_MD.to(device), draw_source(seed, "pretrain", 0, device))


@torch.no_grad()
def aggregate(
    updates: Any,
    defense: str = "rflbat",
    *,
    sizes: Any = None,
    state: Any = None,
    clean: Any = None,
    params: Any = None,
    previous: Any = None,
    layers: Any = None,
    root: Any = None,
    outputs: Callable[..., Tensor] | None = None,
    sample_shape: Sequence[int] | None = None,
    before: str | None = None,
    seed: int = 0,
    **arguments: object,
) -> Decision:
    """Aggregate client updates under a defense.

    Rows with NaN, Inf or a number beyond 1e100 are dropped first (stage "nonfinite"). If no client is kept, the update
    is 0. Everything runs on the device of the updates; only ``sizes`` and the check that ``clean`` has a finite row are
    read on the host. Inside ``with rflbat_kernels.using({"gram": "triton"})`` the kernels chosen there are used.

    Args:
        updates: ``(N, D)`` updates, local minus global: a torch tensor, a numpy array or any object with DLPack; or a
            list of one state dict (name -> array) or one iterable of arrays (such as ``module.parameters()``) per
            client, which then also give ``layers``.
        defense: a name from ``rflbat list defenses``.
        sizes: ``(N,)`` number of samples of each client, 1e-15 to 1e18; equal by default.
        state: ``.state`` of the previous round's decision, for a defense with memory; row i is client i.
        clean: ``(M, D)`` updates of honest clients, for the first round of a defense that learns from clean updates
            (autoencoder). Non-finite rows are ignored. Later rounds take its state instead.
        params: ``(D,)`` global parameters or a state dict, for a defense that reads them (flame, deepsight).
        previous: the same of the round before, for a defense that reads it.
        layers: name -> shape of the parameters, in the order of the columns, for a defense that reads single layers
            (deepsight).
        root: ``(D,)`` update or a state dict that the server trained itself (fltrust).
        outputs: function (named parameters, x) -> logits ``(B, C)``, for a defense that feeds the clients' models
            (deepsight). It is called once per client.
        sample_shape: shape of one input of ``outputs``.
        before: transforms of the updates before the defense, such as "nnm,clip(c=2)".
        seed: key of the random draws (such as k-means starts), any integer. Pass a different seed in each round if the
            draws of rounds are to differ.
        arguments: parameters of the defense, as in ``rflbat show NAME``.

    Returns:
        the decision: ``.update`` (D,), ``.kept`` (N,), ``.weights`` (N,), ``.scores`` (N,), ``.state``, ``.trace``.

    Raises:
        UserError: an unknown defense or parameter, input of the wrong shape or dtype, or an argument that the defense
            needs is missing.

    Example:
        >>> import numpy
        >>> aggregate(numpy.array([[1.0, 2.0], [3.0, 4.0]]), "fedavg").update.tolist()
        [2.0, 3.0]
        >>> draws = numpy.random.default_rng(0)
        >>> first = aggregate(draws.normal(size=(6, 8)), "autoencoder", clean=draws.normal(size=(50, 8)))
        >>> second = aggregate(draws.normal(size=(6, 8)), "autoencoder", state=first.state)
        >>> second.state is first.state
        True
        >>> one, other = ({"weight": torch.tensor([[x, 1.0]]), "bias": torch.zeros(1)} for x in (1.0, -1.0))
        >>> aggregate([one, other], "fltrust", root=one).weights.tolist()
        [1.0, 0.0]
    """
    matrix_ND, layout = _updates(updates)
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise UserError(f"seed is {seed!r}; expected an integer")
    clients, parameters = matrix_ND.shape
    device = matrix_ND.device
    chosen = compose(make_transforms(before), make_defense(defense, arguments))
    check_clients(chosen, arguments, clients)
    given = {
        "params": params,
        "previous": previous,
        "layers": layers,
        "root": root,
        "outputs": outputs,
        "sample_shape": sample_shape,
    }
    seen = Updates(
        values=matrix_ND,
        sizes_N=_sizes(sizes, clients).to(device),
        client_ids_N=torch.arange(clients, device=device),
        valid_N=finite_rows(matrix_ND),
        server=server_view(chosen, matrix_ND, layout, given, _tensor),
    )
    if clean is not None and state is not None:
        raise UserError("both state= and clean= are given; clean updates are only for the first round")
    first = _first_state(chosen, clean, clients, parameters, device, seed) if state is None else state
    _check_state(chosen, first, clients, parameters)
    return chosen.apply(seen, first, draw_source(seed, "defense", 0, device))
