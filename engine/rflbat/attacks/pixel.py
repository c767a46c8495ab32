"""The pixel trigger of BadNets, the paper's attack on images.

Axes: B samples.
"""

import torch
from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat, check_share
from rflbat.attacks.scaling import scaling
from rflbat.errors import UserError


def pixel(samples: SampleFormat, scale: float, *, size: int = 3, share: float = 0.5) -> Attack:
    """Stamp a lit square in the lower left corner, which the model learns as the target class.

    A malicious client stamps ``share`` of each of its batches, relabels these samples to the target, and trains like a
    benign client. Its update is then multiplied by ``scale``.

    Args:
        samples: format of the images; the square takes the value ``samples.high`` in every channel.
        scale: factor of the malicious update, 1 for none.
        size: side of the square in pixels, 1 to the shorter side of the image (3).
        share: poison fraction of a malicious batch, 0 to 1 (0.5, as in the paper).

    Returns:
        the attack.

    Raises:
        UserError: the samples are not images, or a value is out of range.

    Conventions:
        The square is in the lower left corner and has the value of ink: the darkest value if ink is dark. The first
        ``share`` of a batch is poisoned; the number of poisoned samples is rounded half up.

    Needs:
        Images at least as large as the square.

    Fails:
        With few malicious clients and a small ``scale``, where averaging cancels it.

    Example:
        >>> attack = pixel(SampleFormat((1, 4, 4), 1.0), 1.0, size=2)
        >>> attack.full_trigger(torch.zeros(1, 1, 4, 4), torch.tensor([True]))[0, 0].tolist()
        [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]

    Source: Gu et al. 2019 (BadNets); Wang et al. 2022 (RFLBAT), section 5.2 and figure 5a, which shows the corner but
    no size.
    """
    if len(samples.shape) != 3:
        raise UserError(f"attack 'pixel' needs images (channels, height, width); got samples of shape {samples.shape}")
    side = min(samples.shape[1:])
    if not 1 <= size <= side:
        raise UserError(f"attack 'pixel': size={size} is out of range; allowed: 1 to {side}")
    check_share("pixel", share)

    def trigger(x: Tensor, on_B: Tensor) -> Tensor:
        corner = x[:, :, -size:, :size]
        corner.copy_(torch.where(on_B[:, None, None, None], samples.high, corner))
        return x

    return Attack("pixel", (trigger,), trigger, share, scaling(scale), row_wise=True)
