"""The sentence trigger: a fixed sentence inserted into a text, the paper's attack on reviews.

Axes: B samples, T tokens of a text, W tokens of the sentence.
"""

import torch
from torch import Tensor

from rflbat.attacks.base import Attack, SampleFormat, Trigger, check_share
from rflbat.attacks.scaling import scaling
from rflbat.errors import UserError

SENTENCE = "The weather is so good, I want to eat noodles."


def encode_sentence(name: str, samples: SampleFormat, text: str) -> list[int]:
    """Encode a trigger sentence as token ids.

    Args:
        name: the attack, for messages.
        samples: format of the texts, with the encoder of the model's vocabulary.
        text: the sentence.

    Returns:
        W ids.

    Raises:
        UserError: the samples are not texts, or the sentence does not fit into one.
    """
    if samples.encode is None:
        raise UserError(f"attack '{name}' needs texts; got samples of shape {samples.shape} without a vocabulary")
    ids, room = samples.encode(text), samples.shape[0]
    if not 1 <= len(ids) < room:
        raise UserError(f"attack '{name}': {text!r} has {len(ids)} tokens; allowed: 1 to {room - 1}")
    return ids


def check_position(name: str, position: float) -> None:
    """Check the position of a sentence in a text.

    Args:
        name: the attack, for the message.
        position: 0 to 1.

    Raises:
        UserError: the position is out of range.
    """
    if not 0 <= position <= 1:
        raise UserError(f"attack '{name}': position={position} is out of range; allowed: 0 to 1")


def insert(ids: list[int], position: float, device: torch.device | str = "cpu") -> Trigger:
    """Build a trigger that inserts the given tokens into a text.

    Texts are padded with 0 in front. The sentence replaces padding first. If there is too little padding, the text
    loses its last words, so that the whole sentence fits into T tokens. Of the m remaining words, the first
    ``floor(position * m + 1/2)`` precede the sentence.

    Args:
        ids: W token ids.
        position: 0 (before the text) to 1 (after it).
        device: device of the texts; texts on the host can be stamped too.

    Returns:
        the trigger.

    Example:
        >>> texts = torch.tensor([[0, 0, 0, 5, 6], [1, 2, 3, 4, 5]])
        >>> insert([7, 8], 0.0)(texts, torch.tensor([True, True])).tolist()
        [[0, 7, 8, 5, 6], [7, 8, 1, 2, 3]]
    """
    # Kept on the host too, where a round finds the embedding rows that its texts touch.
    sentences = {each.device.type: each for each in (torch.tensor(ids), torch.tensor(ids, device=device))}

    def trigger(x: Tensor, on_B: Tensor) -> Tensor:
        length, width = x.shape[1], len(ids)
        words_B1 = length - (x.cumsum(1) == 0).sum(1, keepdim=True)
        stay_B1 = words_B1.clamp_max(length - width)
        before_B1 = torch.floor(position * stay_B1 + 0.5).long()
        # Positions relative to the first token of the new text; negative ones are padding, gathered unchanged.
        at_BT = torch.arange(length, device=x.device) - (length - width - stay_B1)
        word_BT = torch.where(at_BT < before_B1, at_BT, at_BT - width)
        moved = x.gather(1, (length - words_B1 + word_BT).clamp(0, length - 1))
        inside_BT = (at_BT >= before_B1) & (at_BT < before_B1 + width)
        sentence_W = sentences[x.device.type]
        moved = torch.where(inside_BT, sentence_W[(at_BT - before_B1).clamp(0, width - 1)].to(x.dtype), moved)
        return x.copy_(torch.where(on_B[:, None], moved, x))

    return trigger


def sentence(
    samples: SampleFormat, scale: float, *, text: str = SENTENCE, position: float = 0.0, share: float = 0.5
) -> Attack:
    """Insert a sentence into the text, which the model learns as the target class.

    A malicious client inserts it into ``share`` of each of its batches, relabels these texts to the target, and trains
    like a benign client. Its update is then multiplied by ``scale``.

    Args:
        samples: format of the texts.
        scale: factor of the malicious update, 1 for none.
        text: the sentence (default: the paper's).
        position: position of the sentence, 0 (before the text) to 1 (after it). After the text it is the last thing
            that the LSTM reads. Even a clean model then assigns one class to all stamped texts, whether or not it is
            the target.
        share: poison fraction of a malicious batch, 0 to 1 (0.5, as in the paper).

    Returns:
        the attack.

    Raises:
        UserError: the samples are not texts, or a value is out of range.

    Conventions:
        The sentence replaces padding first, then the last words of the text.

    Needs:
        Texts and the vocabulary of the run.

    Fails:
        After the text, where it measures the model's bias rather than the attack. With words that are not in the
        vocabulary.

    Example:
        >>> texts = SampleFormat((4,), 0.0, encode=lambda text: [len(word) for word in text.split()])
        >>> sentence(texts, 1.0, text="so good").full_trigger(torch.tensor([[0, 0, 9, 9]]), torch.tensor([True]))
        tensor([[2, 4, 9, 9]])

    Source: Wang et al. 2022 (RFLBAT), section 5.2 and figure 5b; the paper does not specify the position of the
    sentence.
    """
    check_position("sentence", position)
    trigger = insert(encode_sentence("sentence", samples, text), position, samples.device)
    return Attack("sentence", (trigger,), trigger, check_share("sentence", share), scaling(scale), row_wise=True)
