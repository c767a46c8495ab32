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


def check_position(name: str, position: float) -> None:
    """Refuse a position outside of the text.

    Args:
        name: the attack, for the message.
        position: 0 to 1.

    Raises:
        UserError: it is out of its range.
    """
    if not 0 <= position <= 1:
        raise UserError(f"attack '{name}': position={position} is not in 0..1")


def insert(ids: list[int], position: float, device: torch.device | str = "cpu") -> Trigger:
    """Make a trigger that inserts the given tokens into a text.

    Texts are padded with 0 in front. The sentence takes padding first; a text that leaves no room loses its last
    words, so that the sentence survives the cut to T tokens whole. Of the m words that stay, the first
    ``floor(position * m + 1/2)`` come before it.

    Args:
        ids: W token ids.
        position: 0 (before the text) to 1 (behind it).
        device: where the texts will lie; the host may stamp its own.

    Returns:
        the trigger.

    Example:
        >>> texts = torch.tensor([[0, 0, 0, 5, 6], [1, 2, 3, 4, 5]])
        >>> insert([7, 8], 0.0)(texts, torch.tensor([True, True])).tolist()
        [[0, 7, 8, 5, 6], [7, 8, 1, 2, 3]]
    """

    # Also on the host, where a round looks up which rows of a table its texts touch.
    sentences = {each.device.type: each for each in (torch.tensor(ids), torch.tensor(ids, device=device))}

    def trigger(x: Tensor, on_B: Tensor) -> Tensor:
        length, width = x.shape[1], len(ids)
        words_B1 = length - (x.cumsum(1) == 0).sum(1, keepdim=True)
        stay_B1 = words_B1.clamp_max(length - width)
        before_B1 = torch.floor(position * stay_B1 + 0.5).long()
        # Counted from the first token of the new text; below 0 lies padding, which is gathered as it is.
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
    """A sentence inserted into the text, learned as the target class.

    A malicious client inserts it into ``share`` of each of its batches, relabels these texts to the target, and trains
    as everybody does; its update is then multiplied by ``scale``.

    Args:
        samples: format of the texts.
        scale: factor of the malicious update, 1 for none.
        text: the sentence (the paper's).
        position: where it stands, 0 (before the text) to 1 (behind it). Behind the text it is the last that the LSTM
            reads: then even a clean model answers every text with one class, be it the target or not.
        share: share of a malicious batch that is poisoned, 0 to 1 (0.5, as the paper).

    Returns:
        the attack.

    Raises:
        UserError: the samples are no texts, or a value is out of its range.

    Conventions:
        Padding goes first when the sentence needs room, then the text's own last words.

    Needs:
        Texts and the vocabulary of the run.

    Fails:
        Behind the text it measures the model's habit and not the attack; with words that the vocabulary does not
        hold.

    Example:
        >>> texts = SampleFormat((4,), 0.0, encode=lambda text: [len(word) for word in text.split()])
        >>> sentence(texts, 1.0, text="so good").full_trigger(torch.tensor([[0, 0, 9, 9]]), torch.tensor([True]))
        tensor([[2, 4, 9, 9]])

    Source: Wang et al. 2022 (RFLBAT), section 5.2 and figure 5b; the paper does not say where the sentence stands.
    """
    check_position("sentence", position)
    trigger = insert(encode_sentence("sentence", samples, text), position, samples.device)
    return Attack("sentence", (trigger,), trigger, check_share("sentence", share), scaling(scale), row_wise=True)
