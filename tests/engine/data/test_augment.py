"""Augmentation: a loop over samples written out, draws that depend on nothing but their key, and whole runs.

Legend of the suffixes: N clients, n clients of a chunk, B batch.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rflbat import Experiment, UserError, resume, run
from rflbat.clients.batches import draw_batches
from rflbat.clients.step import make_batch_source
from rflbat.data.augment import by_key, crop, flip
from rflbat.data.digits import load
from rflbat.data.registry import make_augmentations
from rflbat.randomness import generator
from rflbat.round.draws import draw_round
from rflbat.round.round import run_round
from rflbat.round.setup import build, empty_state, initial_state
from tests.engine.federations import Gathering, small_federation
from tests.engine.rounds import play, small
from tests.kernels.device_waits import Crossings

CLIENTS, STEPS, BATCH, LOW = 5, 3, 4, -0.5
SHAPE = (2, 5, 7)
MALICIOUS = np.array([True, False, False, True, False])
TARGET = 1
MASK = 2**64 - 1


def splitmix(key, number):
    """SplitMix64 with Python's integers, as the paper writes it."""
    bits = (key + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def signed(bits):
    return bits - 2**64 if bits >= 2**63 else bits


def cropped(image, key, padding):
    """A frame of background, and a window of the image's size."""
    channels, height, width = image.shape
    framed = np.full((channels, height + 2 * padding, width + 2 * padding), LOW, np.float32)
    framed[:, padding : padding + height, padding : padding + width] = image
    row, column = (signed(splitmix(key, number)) % (2 * padding + 1) for number in range(2))
    return framed[:, row : row + height, column : column + width]


def mirrored(image, key):
    return image[:, :, ::-1] if signed(splitmix(key, 0)) < 0 else image


def augmented(image, key, step, place, padding):
    """One sample, one change after the other."""
    of_sample = splitmix(splitmix(key, step), place)
    return mirrored(cropped(image, splitmix(of_sample, 0), padding), splitmix(of_sample, 1))


def trigger(x, on_B):
    """The first pixel of every channel is lit."""
    x[:, :, 0, 0] = torch.where(on_B[:, None], 9.0, x[:, :, 0, 0])
    return x


@pytest.fixture
def drawn():
    """Samples, labels, batches, keys of the clients."""
    stream = np.random.default_rng(0)
    x = torch.from_numpy(stream.random((40, *SHAPE), np.float32))
    own = np.array_split(stream.permutation(40), CLIENTS)
    batches = draw_batches(own, MALICIOUS, stream, steps=STEPS, batch=BATCH, poison_fraction=0.5)
    return x, torch.arange(40) % 3, batches, torch.from_numpy(stream.integers(2**63, size=CLIENTS))


def source(drawn, changes, key_N=None):
    x, labels, batches, keys = drawn
    augment = by_key(changes, keys if key_N is None else key_N)
    group_N = torch.zeros(CLIENTS, dtype=torch.int64)
    return make_batch_source(x, labels, batches, (trigger,), group_N, TARGET, augment=augment)


@pytest.mark.parametrize("padding", [1, 2, 5])
def test_batches_are_those_of_a_loop_over_samples(drawn, padding):
    """Augmented first, stamped afterwards: the trigger is where the attacker puts it at test time."""
    x, labels, batches, key_N = drawn
    found = source(drawn, [crop(SHAPE, LOW, padding=padding), flip(SHAPE, LOW)])
    for step in range(STEPS):
        x_NB, labels_NB, _ = found(slice(0, CLIENTS), step)
        for client in range(CLIENTS):
            for place in range(BATCH):
                index = int(batches.index_NSB[client, step, place])
                wanted = augmented(x[index].numpy(), int(key_N[client]), step, place, padding).copy()
                poisoned = bool(batches.poisoned_NSB[client, step, place])
                if poisoned:
                    wanted[:, 0, 0] = 9.0
                np.testing.assert_array_equal(x_NB[client, place].numpy(), wanted)
                assert int(labels_NB[client, place]) == (TARGET if poisoned else int(labels[index]))


def test_rows_of_any_chunk_and_order_get_the_same_images(drawn):
    found = source(drawn, [crop(SHAPE, LOW), flip(SHAPE, LOW)])
    whole = found(slice(0, CLIENTS), 1)[0].clone()
    for first in range(CLIENTS):
        for last in range(first + 1, CLIENTS + 1):
            assert torch.equal(found(slice(first, last), 1)[0], whole[first:last])
    some = torch.tensor([3, 0])
    assert torch.equal(found(some, 1)[0], whole[some])


def test_samples_steps_and_clients_draw_differently(drawn):
    x, labels, batches, key_N = drawn
    same = replace(batches, index_NSB=torch.zeros_like(batches.index_NSB))
    found = source((x, labels, same, key_N), [crop(SHAPE, LOW), flip(SHAPE, LOW)])
    images = torch.cat([found(slice(0, CLIENTS), step)[0].flatten(0, 1).clone() for step in range(STEPS)])
    assert len(images.unique(dim=0)) > 0.8 * len(images)
    assert torch.equal(x, drawn[0])


def test_every_shift_and_both_sides_come_up_equally_often():
    key_B = torch.from_numpy(generator(0, "keys").integers(2**63, size=20_000))
    image = torch.zeros(1, 3, 3)
    image[0, 1, 1] = 1.0
    x_B = image.expand(len(key_B), -1, -1, -1)
    shares = crop((1, 3, 3), 0.0, padding=1).apply(x_B, key_B).mean(0)[0]
    # Each of 9 shifts: mean 1/9, standard deviation 0.0022.
    assert (shares - 1 / 9).abs().max() < 0.011
    side = torch.zeros(len(key_B), 1, 1, 3)
    side[..., 0] = 1.0
    assert abs(float(flip((1, 1, 3), 0.0).apply(side, key_B)[..., 2].mean()) - 0.5) < 0.02


def test_the_background_of_the_data_set_fills_the_frame():
    digits = load(mean=0.5, std=0.25)
    (cut,) = make_augmentations("crop(padding=28)", digits)
    x_B = torch.full((50, 1, 28, 28), 1.0)
    assert set(cut.apply(x_B, torch.arange(50)).unique().tolist()) <= {1.0, digits.low}
    assert digits.low == -2.0


AUGMENTED = {"augment": "crop(padding=2),flip", "device": "cpu", "attack": "pixel", "model": "logistic"}
WAYS = {
    "vmap": {"backend": "vmap", "chunk": 4},
    "loop": {"backend": "loop"},
    "analytic": {"backend": "analytic", "chunk": 13},
}


def test_back_ends_train_on_the_same_images():
    found = {name: run(small(**AUGMENTED, **way)).params for name, way in WAYS.items()}
    for each in found.values():
        torch.testing.assert_close(each, found["vmap"], rtol=0, atol=1e-5)
    assert not torch.allclose(run(small(**{**AUGMENTED, "augment": None})).params, found["vmap"], atol=1e-3)


def test_a_run_resumes_bit_for_bit(tmp_path):
    settings = {**AUGMENTED, "checkpoint_every": 1}
    whole = run(small(**settings), tmp_path / "whole")

    class Stop:
        def on_start(self, description):
            pass

        def on_round(self, record):
            if record["round"] == 1:
                raise KeyboardInterrupt

        def on_end(self, summary):
            pass

    with pytest.raises(BaseException, match="interrupted after 2 rounds"):
        run(small(**settings), tmp_path / "run", [Stop()])
    assert torch.equal(resume(tmp_path / "run").params, whole.params)


def test_augmentation_changes_no_other_draw():
    plain, changed = (
        draw_round(small(**{**AUGMENTED, "augment": text}), 1, [np.arange(9)] * 13, 0.5, 4)
        for text in (None, "crop,flip")
    )
    assert plain.augment_key_N is None
    assert changed.augment_key_N.shape == (13,)
    for name in vars(plain.batches):
        assert torch.equal(getattr(plain.batches, name), getattr(changed.batches, name))
    assert torch.equal(plain.uniforms_U, changed.uniforms_U)


@pytest.mark.parametrize("defense", ["fltrust", "autoencoder"])
def test_the_server_augments_its_own_training(defense, monkeypatch):
    """Root data: the server's own row of the round, and the clients of its warm-up rounds."""
    keys = []
    monkeypatch.setattr("rflbat.round.round.by_key", lambda augmentations, key_N: keys.append(key_N))
    monkeypatch.setattr("rflbat.round.root_data.by_key", lambda augmentations, key_N: keys.append(key_N))
    args = {"autoencoder": {"surrogate": 300, "hidden": 8, "code": 4, "epochs": 1}}
    settings = {**AUGMENTED, "defense": defense, "defense_args": args.get(defense, {}), "clients": 13}
    federation = build(small(**settings))
    play(federation)
    assert len(keys[-1]) == 13 + (defense == "fltrust")
    assert [len(each) for each in keys[:-1]] == ([10] * 20 if defense == "autoencoder" else [])
    assert len({tuple(each.tolist()) for each in keys}) == len(keys)
    assert initial_state(federation).round_number == 0


def test_a_round_with_augmentation_waits_for_nothing():
    with FakeTensorMode():
        federation = small_federation("logistic", "pixel", backend=Gathering(), device="cuda")
        shape = tuple(federation.train_x.shape[1:])
        federation = replace(
            federation,
            experiment=replace(federation.experiment, augment="crop,flip"),
            augmentations=(crop(shape, 0.0), flip(shape, 0.0)),
        )
        server = empty_state(federation)
        with Crossings(forbidden=False) as crossed:
            run_round(federation, server)
        assert crossed.seen == ["_to_copy copies between cpu and cuda"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crops", "unknown augmentation 'crops'; did you mean 'crop'"),
        ("crop(pad=3)", "augmentation 'crop' has no parameter 'pad'; did you mean 'padding'"),
        ("crop(padding=x)", "padding='x' is not of type int"),
        ("crop(", "is not of the form NAME"),
    ],
)
def test_mistakes_are_found_with_the_settings(text, message):
    with pytest.raises(UserError, match=message):
        Experiment(augment=text)


@pytest.mark.parametrize("padding", [0, 29])
def test_a_frame_that_does_not_fit_is_refused(padding):
    with pytest.raises(UserError, match=rf"padding={padding} is out of range; allowed: 1 to 28"):
        build(Experiment(augment=f"crop(padding={padding})"))


def test_texts_and_plain_numbers_are_refused():
    texts = replace(load(), words=("a", "b"), name="reviews")
    with pytest.raises(UserError, match="changes images, but the samples of data set 'reviews' are texts"):
        make_augmentations("flip", texts)
    for make in (crop, flip):
        with pytest.raises(UserError, match=r"needs images .* got samples of shape \(7,\)"):
            make((7,), 0.0)
