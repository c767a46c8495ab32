"""The pixel trigger of BadNets, the paper's attack on images.

Axes: B samples.
"""

import torch
from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat, check_share
from rflbat.attacks.scaling import scaling
from rflbat.errors import UserError


def pixel(samples: SampleFormat, scale: float, *, size: int = 3, share: float = 0.5) -> Attack:
    """A lit square in the lower left corner, learned as the target class.

    A malicious client stamps ``share`` of each of its batches, relabels these samples to the target, and trains
    as everybody does; its update is then multiplied by ``scale``.

    Args:
        samples: format of the images; the square takes the value ``samples.high`` in every channel.
        scale: factor of the malicious update, 1 for none.
        size: side of the square in pixels, 1 to the image's side (3).
        share: share of a malicious batch that is poisoned, 0 to 1 (0.5, as the paper).

    Returns:
        the attack.

    Raises:
        UserError: the samples are no images, or a value is out of its range.

    Conventions:
        The corner is the lower left, at the value of ink: the darkest value where ink is dark. The first share of a
        batch is poisoned, rounded half up.

    Needs:
        Images at least as large as the square.

    Fails:
        At few malicious clients and small ``scale``, where averaging drowns it.

    Example:
        >>> attack = pixel(SampleFormat((1, 4, 4), 1.0), 1.0, size=2)
        >>> attack.full_trigger(torch.zeros(1, 1, 4, 4), torch.tensor([True]))[0, 0].tolist()
        [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]

    Source: Gu et al. 2019 (BadNets); Wang et al. 2022 (RFLBAT), section 5.2 and figure 5a, which shows the corner
    but no size.
    """
    if len(samples.shape) != 3:
        raise UserError(f"attack 'pixel' needs images (channels, height, width); these samples have {samples.shape}")
    side = min(samples.shape[1:])
    if not 1 <= size <= side:
        raise UserError(f"attack 'pixel': size={size} is not in 1..{side}")
    check_share("pixel", share)

    def trigger(x: Tensor, on_B: Tensor) -> Tensor:
        corner = x[:, :, -size:, :size]
        corner.copy_(torch.where(on_B[:, None, None, None], samples.high, corner))
        return x

    return Attack("pixel", (trigger,), trigger, share, scaling(scale), row_wise=True)
