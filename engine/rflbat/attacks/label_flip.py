"""Label flipping: malicious clients train on clean samples with wrong labels."""

from rflbat.attacks.base import Attack, SampleFormat, check_share, no_trigger
from rflbat.attacks.labels import mirrored, random_labels, source_to_target
from rflbat.attacks.scaling import scaling
from rflbat.errors import UserError, nearest

KINDS = ("source", "mirrored", "random")


def label_flip(
    samples: SampleFormat, scale: float, *, labels: str = "source", source: int = 1, share: float = 1.0
) -> Attack:
    """Relabel samples without changing them.

    Args:
        samples: format of the samples; any, since none is changed.
        scale: factor of the malicious update, 1 for none.
        labels: ``source``: samples of class ``source`` get the target (``--target``); ``mirrored``: every label y
            becomes ``C - 1 - y``; ``random``: every sample gets another label, drawn once.
        source: the class, for ``source``; at least 0, not the target.
        share: share of a malicious batch whose samples may be relabelled, 0 to 1 (1: all).

    Returns:
        the attack. Its success is the share of the test samples of the relabelled classes that are classified as the
        attacker wants; for ``random`` it is measured by labels that are drawn for the test samples.

    Raises:
        UserError: a value is out of range.

    Conventions:
        With ``source`` only samples of that class are relabelled, so most of a batch is clean. No trigger.

    Needs:
        Samples of class ``source`` among those of the malicious clients.

    Fails:
        With few malicious clients under a mean: the benign clients teach the true labels.

    Example:
        >>> label_flip(SampleFormat((1, 28, 28), 1.0), 1.0, source=2).success
        'labels'

    Source: Tolpegin et al. 2020, "Data poisoning attacks against federated learning systems", section 3; Biggio et al.
    2012.
    """
    if labels not in KINDS:
        raise UserError(f"attack 'label_flip': labels={labels!r}{nearest(labels, KINDS)}; allowed: {', '.join(KINDS)}")
    if source < 0:
        raise UserError(f"attack 'label_flip': source={source} is out of range; allowed: labels, from 0")
    check_share("label_flip", share)
    plan = {"source": source_to_target(source), "mirrored": mirrored, "random": random_labels}[labels]
    return Attack(
        "label_flip",
        (no_trigger,),
        no_trigger,
        share,
        scaling(scale),
        needs_all_columns=False,
        row_wise=True,
        success="labels",
        labels=plan,
    )
