"""Updates and the server's knowledge as a caller of ``rflbat.aggregate`` gives them: arrays, state dicts, modules.

Axes: N clients, D parameters, B inputs, C classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rflbat.defenses.base import Defense
from rflbat.defenses.server_view import Forward, ServerView, in_words
from rflbat.errors import UserError
from rflbat.parameters import Layout

Read = Callable[[Any, str], Tensor]
"""``read(array, name)`` converts an array of any library to a tensor."""
ARGUMENTS = {
    "params": "the (D,) global parameters, or a state dict",
    "previous": "the (D,) global parameters of the round before, or a state dict",
    "layers": "a mapping of names to shapes in the order of the columns, or updates as state dicts",
    "root": "the (D,) update that the server trained itself, or a state dict",
    "outputs": "a function (named parameters, x) -> logits (B, C), such as torch.func.functional_call of a module",
    "sample_shape": "the shape of one input of outputs=",
}
"""Argument -> how to pass it."""
NEEDED = {
    "params": ("params",),
    "history": ("previous",),
    "layers": ("layers",),
    "root_update": ("root",),
    "outputs": ("outputs", "sample_shape", "params", "layers"),
}
"""Need of a defense -> arguments that it takes."""


def check_given(defense: Defense, given: Mapping[str, Any], inferred: bool) -> None:
    """Check that a call gives the arguments that a defense reads, and no other.

    Args:
        defense: the defense.
        given: argument -> value, None if it is not given.
        inferred: whether ``layers`` comes from the updates themselves, which any defense allows.

    Raises:
        UserError: an argument is missing, or is not read.
    """
    for need in NEEDED:
        for name in NEEDED[need] if need in defense.needs else ():
            if given[name] is None:
                raise UserError(f"{defense.name} needs {in_words({need})}; pass {name}= {ARGUMENTS[name]}")
    read = {name for need in defense.needs for name in NEEDED[need]} | ({"layers"} if inferred else set())
    if spare := [name for name, value in given.items() if value is not None and name not in read]:
        raise UserError(f"{defense.name} does not read {spare[0]}=; omit {spare[0]}=")


def is_named(item: Any) -> bool:
    """Return whether a value is a state dict or an iterable of tensors, such as ``module.parameters()``.

    Args:
        item: any value.

    Returns:
        whether ``named_tensors`` takes it; an array itself is not named.
    """
    if isinstance(item, Mapping):
        return True
    return isinstance(item, Iterable) and not hasattr(item, "__dlpack__") and not isinstance(item, str | bytes)


def named_tensors(item: Any, what: str, read: Read) -> dict[str, Tensor]:
    """Read a state dict, or an iterable of tensors, which are then named by position.

    Args:
        item: name -> tensor, or tensors.
        what: name of the value, for messages.
        read: conversion of an array.

    Returns:
        name -> tensor.

    Raises:
        UserError: it is empty, or an entry is no array of floats.
    """
    pairs = item.items() if isinstance(item, Mapping) else ((str(at), value) for at, value in enumerate(item))
    found = {str(name): read(value, f"{what}[{name!r}]") for name, value in pairs}
    if not found:
        raise UserError(f"{what} holds no tensors")
    for name, tensor in found.items():
        if not tensor.is_floating_point():
            raise UserError(f"{what}[{name!r}] is of type {tensor.dtype}; expected floats; leave integer buffers out")
    return found


def stacked(updates: list[Any], read: Read) -> tuple[Tensor, Layout]:
    """Flatten the named updates of all clients into one matrix.

    Args:
        updates: one state dict or iterable of tensors per client, all of the same names and shapes.
        read: conversion of an array.

    Returns:
        ``(N, D)``, and the names and shapes of its columns.

    Raises:
        UserError: the clients' tensors differ in names or shapes.
    """
    rows, layout = list[Tensor](), Layout({})
    for client, item in enumerate(updates):
        named = named_tensors(item, f"updates[{client}]", read)
        shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
        layout = layout if rows else Layout(shapes)
        rows.append(flat(named, layout, f"updates[{client}]"))
    return torch.stack(rows), layout


def flat(named: Mapping[str, Tensor], layout: Layout, what: str) -> Tensor:
    """Flatten named tensors in the order of a layout.

    Args:
        named: name -> tensor.
        layout: names and shapes.
        what: name of the value, for messages.

    Returns:
        ``(D,)``.

    Raises:
        UserError: names or shapes differ from the layout.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    if shapes != dict(layout.shapes):
        raise UserError(f"{what} holds {shapes}; expected {dict(layout.shapes)}, as the first update")
    return layout.flatten(named)


def _vector(value: Any, what: str, layout: Layout | None, like_ND: Tensor, read: Read) -> Tensor | None:
    """Read a vector in the columns of the updates, and move it to their device and type."""
    if value is None:
        return None
    if is_named(value):
        if layout is None:
            raise UserError(
                f"{what} is a state dict, but the updates are a matrix; pass layers=, or {what} as a vector"
            )
        vector_D = flat(named_tensors(value, what, read), layout, what)
    else:
        vector_D = read(value, what)
    if vector_D.shape != like_ND.shape[1:] or not vector_D.is_floating_point():
        shape = tuple(vector_D.shape)
        raise UserError(f"{what} is {vector_D.dtype} of the shape {shape}; expected floats ({like_ND.shape[1]},)")
    return vector_D.to(like_ND)


def _layout(layers: Any, inferred: Layout | None, parameters: int) -> Layout | None:
    """Read the layers: a layout, name -> shape, or name -> tensor."""
    if layers is None:
        return inferred
    if inferred is not None:
        raise UserError("layers= is given twice: the updates are state dicts, which name their layers; omit layers=")
    if isinstance(layers, Layout):
        layout = layers
    elif isinstance(layers, Mapping):
        shapes = {str(name): shape.shape if hasattr(shape, "shape") else shape for name, shape in layers.items()}
        layout = Layout({name: tuple(shape) for name, shape in shapes.items()})
    else:
        raise UserError(f"layers= is a {type(layers).__name__}; expected {ARGUMENTS['layers']}")
    if layout.size != parameters:
        raise UserError(f"layers= has {layout.size} parameters; expected {parameters}, the columns of the updates")
    return layout


def one_by_one(outputs: Callable[..., Any], params_D: Tensor, layout: Layout) -> Forward:
    """Build the forward pass of the local models from a function of one model, called once per client.

    Args:
        outputs: (named parameters, x) -> logits.
        params_D: global parameters.
        layout: names and shapes of the parameters.

    Returns:
        the function.
    """

    def forward(updates_ND: Tensor, x_B: Tensor, of_clients: bool = True) -> Tensor:
        found = [outputs(layout.views(params_D + update_D), x_B) for update_D in updates_ND]
        for logits in found:
            if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x_B):
                shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise UserError(f"outputs= returns {shape} for {len(x_B)} inputs; expected a tensor ({len(x_B)}, C)")
        return torch.stack(found)

    return forward


def server_view(
    defense: Defense, like_ND: Tensor, inferred: Layout | None, given: Mapping[str, Any], read: Read
) -> ServerView:
    """Build what the server knows from the arguments of a call.

    Args:
        defense: the defense.
        like_ND: the updates, for their width, type and device.
        inferred: names and shapes of the updates, if they are named.
        given: ``ARGUMENTS`` -> value, None if it is not given.
        read: conversion of an array.

    Returns:
        the view.

    Raises:
        UserError: an argument is missing, not read, or of the wrong shape or type.
    """
    layout = _layout(given["layers"], inferred, like_ND.shape[1])
    check_given(defense, {**given, "layers": layout}, inferred is not None)
    params_D, previous_D, root_D = (
        _vector(given[name], f"{name}=", layout, like_ND, read) for name in ("params", "previous", "root")
    )
    forward = None
    if given["outputs"] is not None and params_D is not None and layout is not None:
        forward = one_by_one(given["outputs"], params_D, layout)
    shape: Sequence[int] | None = given["sample_shape"]
    return ServerView(params_D, previous_D, layout, root_D, forward, None if shape is None else tuple(shape))
