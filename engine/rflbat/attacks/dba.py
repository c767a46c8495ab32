"""The distributed backdoor: four groups of malicious clients, each with its own part of the trigger.

Axes: B samples.
"""

from itertools import pairwise

import torch
from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat, Trigger, check_share
from rflbat.attacks.scaling import scaling
from rflbat.attacks.sentence import SENTENCE, check_position, encode_sentence, insert
from rflbat.errors import UserError

GROUPS = 4
LENGTH, GAP = 4, 2
"""Length of a bar and free pixels between bars in both directions."""


def bars(high: float, groups: tuple[int, ...]) -> Trigger:
    """Build a trigger of lit horizontal bars in the lower left corner.

    Each bar is 1 x 4 pixels. Bars with even k are at the left, bars with odd k to the right of the gap; bars 0 and 1
    are in the upper row, bars 2 and 3 in the last row of the image. This is the published pattern, moved from the upper
    left corner to the corner that the paper shows.

    Args:
        high: value of a lit pixel.
        groups: which of the four bars to draw.

    Returns:
        the trigger.

    Source: Xie et al. 2020, section 4.1 (local triggers of 1 x 4 pixels, gap 2).
    """

    def trigger(x: Tensor, on_B: Tensor) -> Tensor:
        for group in groups:
            row = x.shape[2] - 1 - (0 if group >= 2 else GAP + 1)
            column = (group % 2) * (LENGTH + GAP)
            bar = x[:, :, row, column : column + LENGTH]
            bar.copy_(torch.where(on_B[:, None, None], high, bar))
        return x

    return trigger


def dba(
    samples: SampleFormat, scale: float, *, text: str = SENTENCE, position: float = 0.0, share: float = 0.5
) -> Attack:
    """Split the trigger over four groups of malicious clients; at test time the whole trigger is shown.

    Malicious clients are assigned to the groups in turn. On images the parts are four bars of 1 x 4 pixels. On texts
    they are four groups of consecutive words of a sentence, each inserted into the text.

    Args:
        samples: format of the samples; images need at least 4 rows and 10 columns.
        scale: factor of the malicious update, 1 for none (the paper: 1 and 100).
        text: the sentence for texts.
        position: position of the sentence in a text, 0 (before the text) to 1 (after it).
        share: poison fraction of a malicious batch, 0 to 1 (0.5, as in the paper).

    Returns:
        the attack.

    Raises:
        UserError: the samples are too small for the trigger, or a value is out of range.

    Conventions:
        Malicious clients are assigned to the four groups in turn. Success is measured with the whole trigger, and with
        each part.

    Needs:
        Images of at least 4 x 10 pixels, or texts and a sentence of at least four tokens.

    Fails:
        Against defenses that reject whole groups, once the model has learned (a warm start).

    Example:
        >>> attack = dba(SampleFormat((1, 4, 10), 1.0), 1.0)
        >>> stamped = attack.full_trigger(torch.zeros(1, 1, 4, 10), torch.tensor([True]))[0, 0]
        >>> stamped[0].int().tolist(), int(stamped.sum())
        ([1, 1, 1, 1, 0, 0, 1, 1, 1, 1], 16)

    Source: Xie et al. 2020, "DBA: Distributed backdoor attacks against federated learning"; Wang et al. 2022 (RFLBAT),
    section 5.5. Splitting a sentence is our own extension; no published code does it.
    """
    check_share("dba", share)
    check_position("dba", position)
    everybody = tuple(range(GROUPS))
    if samples.encode is not None:
        ids = encode_sentence("dba", samples, text)
        if len(ids) < GROUPS:
            raise UserError(f"attack 'dba': {text!r} has {len(ids)} tokens; allowed: at least {GROUPS}")
        cuts = [len(ids) * group // GROUPS for group in range(GROUPS + 1)]
        local = tuple(insert(ids[first:stop], position, samples.device) for first, stop in pairwise(cuts))
        return Attack("dba", local, insert(ids, position, samples.device), share, scaling(scale), row_wise=True)
    if len(samples.shape) != 3 or samples.shape[1] < GAP + 2 or samples.shape[2] < 2 * LENGTH + GAP:
        raise UserError(
            f"attack 'dba' needs texts, or images of at least {GAP + 2} x {2 * LENGTH + GAP} pixels; "
            f"got samples of shape {samples.shape}"
        )
    local = tuple(bars(samples.high, (group,)) for group in everybody)
    return Attack("dba", local, bars(samples.high, everybody), share, scaling(scale), row_wise=True)
