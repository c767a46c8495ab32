"""The sentence trigger: a fixed sentence at the end of a text, the paper's attack on reviews.

Axes: B samples, T tokens of a text, W tokens of the sentence.
"""

import torch
from torch import Tensor

from rflbat.attacks.base import Attack, Samples, Trigger, check_share
from rflbat.attacks.scaling import scaling
from rflbat.errors import UserError

SENTENCE = "The weather is so good, I want to eat noodles."


def encode_sentence(name: str, samples: Samples, text: str) -> list[int]:
    """Give the token ids of a trigger sentence.

    Args:
        name: the attack, for messages.
        samples: format of the texts, with the encoder that the model's owner published with the vocabulary.
        text: the sentence.

    Returns:
        W ids.

    Raises:
        UserError: the samples are no texts, or the sentence does not fit into one.
    """
    if samples.encode is None:
        raise UserError(f"attack '{name}' needs texts; these samples have the shape {samples.shape} and no vocabulary")
    ids, room = samples.encode(text), samples.shape[0]
    if not 1 <= len(ids) < room:
        raise UserError(f"attack '{name}': {text!r} has {len(ids)} tokens; allowed: 1 to {room - 1}")
    return ids


def append(ids: list[int]) -> Trigger:
    """Make a trigger that ends a text with the given tokens.

    Texts are padded with 0 in front. The sentence takes padding first; a text that leaves no room loses its last
    tokens, so that the sentence survives the cut to T tokens whole.

    Args:
        ids: W token ids.

    Returns:
        the trigger.

    Example:
        >>> append([7, 8])(torch.tensor([[0, 0, 0, 5], [1, 2, 3, 4]]), torch.tensor([True, True])).tolist()
        [[0, 5, 7, 8], [1, 2, 7, 8]]
    """

    def trigger(x: Tensor, on_B: Tensor) -> Tensor:
        kept = x.shape[1] - len(ids)
        padding_B1 = (x != 0).int().argmax(1, keepdim=True)
        padding_B1 = torch.where((x != 0).any(1, keepdim=True), padding_B1, x.shape[1])
        from_BT = torch.arange(kept, device=x.device) + padding_B1.clamp_max(len(ids))
        sentence_BW = torch.tensor(ids, dtype=x.dtype, device=x.device).expand(len(x), -1)
        stamped = torch.cat([x.gather(1, from_BT), sentence_BW], 1)
        return x.copy_(torch.where(on_B[:, None], stamped, x))

    return trigger


def sentence(samples: Samples, scale: float, *, text: str = SENTENCE, share: float = 0.5) -> Attack:
    """A sentence at the end of the text, learned as the target class.

    A malicious client appends it to ``share`` of each of its batches, relabels these texts to the target, and trains
    as everybody does; its update is then multiplied by ``scale``.

    Args:
        samples: format of the texts.
        scale: factor of the malicious update, 1 for none.
        text: the sentence (the paper's).
        share: share of a malicious batch that is poisoned, 0 to 1 (0.5, as the paper).

    Returns:
        the attack.

    Raises:
        UserError: the samples are no texts, or a value is out of its range.

    Example:
        >>> texts = Samples((4,), 0.0, encode=lambda text: [len(word) for word in text.split()])
        >>> sentence(texts, 1.0, text="so good").full_trigger(torch.tensor([[0, 0, 9, 9]]), torch.tensor([True]))
        tensor([[9, 9, 2, 4]])

    Source: Wang et al. 2022 (RFLBAT), section 5.2 and figure 5c; the paper does not say where the sentence stands.
    """
    trigger = append(encode_sentence("sentence", samples, text))
    return Attack("sentence", (trigger,), trigger, check_share("sentence", share), scaling(scale))
