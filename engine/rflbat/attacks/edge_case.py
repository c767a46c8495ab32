"""The edge-case backdoor: rare but natural samples, labelled as another class."""

from pathlib import Path

import torch
from torch import Tensor

from rflbat.attacks.base import Attack, ExtraSamples, SampleFormat, check_share, no_trigger
from rflbat.attacks.scaling import scaling
from rflbat.data.idx import read_idx
from rflbat.errors import UserError

FOLDER = "ardis_edge_case"
HINT = "the ARDIS digits of 28 x 28 pixels in MNIST's four files"
DIGITS = 10


def _digits(samples: SampleFormat, folder: Path, part: str, digit: int) -> Tensor:
    """Read the images of one digit as model inputs, with the ink and the background of the data set."""
    images, labels = (
        torch.from_numpy(read_idx(folder / f"{part}-{name}.gz", hint=HINT))
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    if tuple(images.shape[1:]) != samples.shape[1:]:
        raise UserError(f"{folder}: the images are of {tuple(images.shape[1:])} pixels; needed: {samples.shape[1:]}")
    chosen = images[torch.isin(labels, digit)]
    if not len(chosen):
        raise UserError(f"{folder}: no {part} image of the digit {digit}")
    ink = chosen[:, None].to(torch.float32) / 255
    return (samples.low + ink * (samples.high - samples.low)).to(samples.device)


def edge_case(samples: SampleFormat, scale: float, *, digit: int = 7, share: float = 0.5) -> Attack:
    """Train on old handwritten digits of one kind as the target class.

    Malicious clients replace ``share`` of each batch by images of ARDIS, digits of Swedish church records, which differ
    from those of MNIST. Nothing is stamped, so the backdoor works on natural images.

    Args:
        samples: format of the images; 1 x 28 x 28 pixels.
        scale: factor of the malicious update, 1 for none.
        digit: digit of ARDIS, 0 to 9 (7, as in the paper; its target is 1).
        share: share of a malicious batch that is replaced, 0 to 1 (0.5).

    Returns:
        the attack. Its success is the share of ARDIS's test images of this digit that are classified as the target.

    Raises:
        UserError: the samples are no such images, the files are missing or damaged, or a value is out of range.

    Conventions:
        660 training and 100 test images of a digit, shared by all malicious clients and drawn anew in each round. Ink
        and background take the values of the data set.

    Needs:
        The folder ``ardis_edge_case`` in the folder of data sets, with MNIST's four file names.

    Fails:
        Where benign clients have similar images with their true labels.

    Example:
        >>> edge_case(SampleFormat((3, 8, 8), 1.0), 1.0)
        Traceback (most recent call last):
        rflbat.errors.UserError: attack 'edge_case' needs images of 1 x 28 x 28 pixels; got samples of shape (3, 8, 8)

    Source: Wang et al. 2020, "Attack of the tails: Yes, you really can backdoor federated learning", section 4 (EMNIST
    and ARDIS); Kusetogullari et al. 2020 (ARDIS).
    """
    if samples.shape != (1, 28, 28):
        raise UserError(f"attack 'edge_case' needs images of 1 x 28 x 28 pixels; got samples of shape {samples.shape}")
    if not 0 <= digit < DIGITS:
        raise UserError(f"attack 'edge_case': digit={digit} is out of range; allowed: 0 to 9")
    check_share("edge_case", share)

    def extra() -> ExtraSamples:
        if samples.data_dir is None:
            raise UserError(f"attack 'edge_case' needs --data-dir, a folder with the folder {FOLDER}: {HINT}")
        folder = samples.data_dir / FOLDER
        return ExtraSamples(*(_digits(samples, folder, part, digit) for part in ("train", "t10k")))

    return Attack(
        "edge_case",
        (no_trigger,),
        no_trigger,
        share,
        scaling(scale),
        needs_all_columns=False,
        row_wise=True,
        success="test set",
        extra=extra,
    )
