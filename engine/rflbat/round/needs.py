"""Needs of the defenses besides the updates: the server's own update, the models' outputs, the model one round before.

Axes: N clients of the round, n clients of a chunk, D parameters, B inputs, C classes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rflbat.clients.batches import draw_batches
from rflbat.defenses.base import Defense
from rflbat.defenses.server_view import Forward, ServerView
from rflbat.errors import UserError
from rflbat.models.base import Model
from rflbat.randomness import generator
from rflbat.round.draws import Group, RoundDraws, draw_keys, local_steps
from rflbat.round.state import Federation, ServerState

OUTPUT_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}
"""Most bytes of local models, and most bytes of activations, that one forward pass of ``outputs`` holds."""


def check_needs(defenses: Sequence[Defense], texts: bool) -> None:
    """Refuse defenses whose needs the data cannot meet.

    Args:
        defenses: the run's defense and its shadows.
        texts: whether the samples are texts.

    Raises:
        UserError: a defense feeds the clients' models, and the samples are texts.
    """
    for defense in defenses:
        if texts and "outputs" in defense.needs:
            raise UserError(
                f"{defense.name} feeds numeric noise to the clients' models, but the samples of this data set are "
                f"texts, that is token ids; use a data set of images or numbers, or another defense"
            )


def with_root_row(federation: Federation, draws: RoundDraws) -> RoundDraws:
    """Append the server's own training as one more row of the honest clients' group.

    Args:
        federation: what no round changes.
        draws: the draws of the round, on the host.

    Returns:
        the draws with batches of N + 1 rows; the same draws if no defense of the round needs the row.
    """
    if "root_update" not in federation.needs:
        return draws
    experiment = federation.experiment
    (steps,) = local_steps(experiment, [len(federation.root_indices)])
    own = draw_batches(
        [federation.root_indices],
        np.zeros(1, bool),
        generator(experiment.seed, "root-batches", draws.round_number),
        steps=steps,
        batch=experiment.batch_size,
        poison_fraction=0.0,
        drop_last=experiment.drop_last,
    )
    groups = _with_root_row(draws.groups, steps, len(draws.clients))
    keys = draws.key_N
    if keys is not None:
        keys = torch.cat([keys, draw_keys(experiment.seed, "root-dropout", draws.round_number, 1)])
    of_samples = draws.augment_key_N
    if of_samples is not None:
        of_samples = torch.cat([of_samples, draw_keys(experiment.seed, "root-augment", draws.round_number, 1)])
    return replace(draws, batches=draws.batches.joined(own), groups=groups, key_N=keys, augment_key_N=of_samples)


def _with_root_row(groups: tuple[Group, ...], steps: int, row: int) -> tuple[Group, ...]:
    """Add a row to the group of the honest clients, or a group of this row if all clients are malicious."""
    last = torch.tensor([row])
    malicious = tuple(
        replace(group, rows_G=torch.arange(row) if group.rows_G is None else group.rows_G)
        for group in groups
        if group.malicious
    )
    honest = [group for group in groups if not group.malicious]
    if not honest:
        return (Group(False, steps, False, last), *malicious)
    (group,) = honest
    rows_G = None if group.rows_G is None else torch.cat([group.rows_G, last])
    ragged = group.ragged or group.steps != steps
    return (replace(group, steps=max(group.steps, steps), ragged=ragged, rows_G=rows_G), *malicious)


def split_root_row(trained_MQ: Tensor, clients: int) -> tuple[Tensor, Tensor | None]:
    """Split the trained rows into those of the clients and that of the server.

    Args:
        trained_MQ: N rows, or N + 1.
        clients: N.

    Returns:
        the clients' rows, and the server's update, None if it was not trained.
    """
    return trained_MQ[:clients], trained_MQ[clients] if len(trained_MQ) > clients else None


def server_view(
    federation: Federation, server: ServerState, root_D: Tensor | None, carried_NC: Tensor | None = None
) -> ServerView:
    """Collect what the defenses of the round need, and nothing else.

    Args:
        federation: what no round changes.
        server: the server before the round.
        root_D: the server's own update, this rank's columns.
        carried_NC: carried columns of the updates that the defense does not see.

    Returns:
        the view; vectors hold this rank's columns that the defense sees.
    """
    needs, own = federation.needs, federation.ranks.columns(federation.defense_columns)
    view = ServerView(root_D=None if root_D is None else root_D[: own.stop - own.start])
    if "params" in needs:
        view = replace(view, params_D=server.params_D[own])
    if "history" in needs and server.previous_D is not None:
        view = replace(view, previous_D=server.previous_D[own])
    if "layers" in needs:
        seen = federation.defense_columns == federation.model.layout.size
        view = replace(view, layout=federation.model.layout if seen else federation.model.layout.trained_part)
    if "outputs" in needs:
        forward = make_forward(federation.model, server.params_D, carried_NC)
        view = replace(view, forward=forward, sample_shape=tuple(federation.train_x.shape[1:]))
    return view


def output_chunks(model: Model, inputs: int, values: int, device: str) -> tuple[int, int]:
    """Choose how many local models, and how many inputs, one forward pass takes.

    The activations of an input are bounded by 64 numbers per number of the input and of the widest layer's bias.

    Args:
        model: functional model.
        inputs: number of inputs B.
        values: numbers of one input.
        device: type of the device.

    Returns:
        models and inputs of a pass, at least 1 each.
    """
    budget = OUTPUT_BYTES.get(device, OUTPUT_BYTES["cuda"])
    models = max(1, budget // (8 * model.layout.size))
    widest = max((shape[0] for shape in model.layout.shapes.values() if len(shape) == 1), default=1)
    return models, min(inputs, max(1, budget // (64 * 4 * (values + widest) * min(models, 16))))


def make_forward(model: Model, params_D: Tensor, carried_NC: Tensor | None = None) -> Forward:
    """Build the forward pass of all local models, by ``vmap`` over chunks of clients and inputs.

    Args:
        model: functional model.
        params_D: global parameters.
        carried_NC: carried columns of the updates, if the updates that the function gets are without them.

    Returns:
        function of the updates and the inputs.
    """

    def apply(named: dict[str, Tensor], x_B: Tensor) -> Tensor:
        return model.apply({**named, **model.constants}, x_B)

    of_chunk = torch.func.vmap(apply, in_dims=(0, None))
    carries = model.layout.size - model.layout.trained

    def forward(updates_ND: Tensor, x_B: Tensor, of_clients: bool = True) -> Tensor:
        models, width = output_chunks(model, len(x_B), x_B[0].numel(), x_B.device.type)
        found = []
        for first in range(0, len(updates_ND), models):
            rows_nD = updates_ND[first : first + models]
            if carried_NC is not None:
                own_nC = (
                    carried_NC[first : first + models] if of_clients else carried_NC.new_zeros(len(rows_nD), carries)
                )
                rows_nD = torch.cat([rows_nD, own_nC], 1)
            named = model.layout.views(params_D + rows_nD)
            found.append(torch.cat([of_chunk(named, piece) for piece in torch.split(x_B, width)], 1))
        return torch.cat(found)

    return forward
