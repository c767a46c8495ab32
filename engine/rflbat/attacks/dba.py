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
"""A bar's pixels, and the free pixels between bars in both directions."""


def bars(high: float, groups: tuple[int, ...]) -> Trigger:
    """Make a trigger of lit horizontal bars in the lower left corner.

    Bar k is 1 x 4 pixels, at the left for even k and right of the gap for odd k, the first two above, the last two on
    the last row: the published pattern, which sits in the upper left corner, moved to the corner of the paper.

    Args:
        high: value of a lit pixel.
        groups: which of the four bars.

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
    """Four groups of malicious clients with a quarter of the trigger each; shown at test time is the whole one.

    Malicious clients are drawn to the groups in turn. On images the parts are four bars of 1 x 4 pixels; on texts four
    groups of consecutive words of a sentence, each inserted into the text.

    Args:
        samples: format of the samples; images take at least 4 rows and 10 columns.
        scale: factor of the malicious update, 1 for none (the paper: 1 and 100).
        text: the sentence for texts.
        position: where it stands in a text, 0 (before) to 1 (behind).
        share: share of a malicious batch that is poisoned, 0 to 1 (0.5, as the paper).

    Returns:
        the attack.

    Raises:
        UserError: the samples are too small for the trigger, or a value is out of its range.

    Conventions:
        Malicious clients are drawn to the four groups in turn; success is measured with the whole trigger, and with
        each part.

    Needs:
        Images of at least 4 x 10 pixels, or texts and a sentence of at least four words.

    Fails:
        Against defenses that drop whole groups once the model has learned (a warm start).

    Example:
        >>> attack = dba(SampleFormat((1, 4, 10), 1.0), 1.0)
        >>> stamped = attack.full_trigger(torch.zeros(1, 1, 4, 10), torch.tensor([True]))[0, 0]
        >>> stamped[0].int().tolist(), int(stamped.sum())
        ([1, 1, 1, 1, 0, 0, 1, 1, 1, 1], 16)

    Source: Xie et al. 2020, "DBA: Distributed backdoor attacks against federated learning"; Wang et al. 2022 (RFLBAT),
    section 5.5. Splitting a sentence is ours: no published code does it.
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
            f"these samples have the shape {samples.shape}"
        )
    local = tuple(bars(samples.high, (group,)) for group in everybody)
    return Attack("dba", local, bars(samples.high, everybody), share, scaling(scale), row_wise=True)
