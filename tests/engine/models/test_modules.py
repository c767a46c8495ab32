"""Any torch module as a model: training against the module itself under torch's optimizers, and the refusals.

Axes: N clients, S local steps, B batch, D columns.
"""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rflbat.clients.backend import Backend, choose_backend
from rflbat.clients.memory import activation_bytes, bytes_per_client
from rflbat.clients.optimizer import Optimizer
from rflbat.clients.step import with_keys
from rflbat.errors import UserError
from rflbat.models import from_module
from rflbat.models.base import next_token_loss
from rflbat.models.layers import PASS, KeyedDropout, TrainingPass
from rflbat.models.resnet import resnet
from rflbat.randomness import generator, hashed_uniforms
from tests.engine.clients.training import torch_steps

CPU = torch.device("cpu")
SAMPLE = torch.empty(2, 4, 4, device="meta")
CLIENTS, STEPS, BATCH, CLASSES = 3, 4, 5, 3


class Net(nn.Module):
    """Convolution, both kinds of batch normalisation, dropout, a buffer, and an operation in place."""

    def __init__(self, p=0.0, momentum=0.1, affine=True):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4, affine=affine)
        self.drop = nn.Dropout2d(p)
        self.hidden = nn.Linear(64, 6, bias=False)
        self.flat_norm = nn.BatchNorm1d(6, momentum=momentum)
        self.flat_drop = nn.Dropout(p)
        self.head = nn.Linear(6, CLASSES)
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, x):
        x = self.drop(torch.relu_(self.norm(self.conv(x) * self.scale)))
        return self.head(self.flat_drop(torch.relu(self.flat_norm(self.hidden(x.flatten(1))))))


def batches(padding=0):
    """Random batches of every client and step; padding repeats a large sample."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(CLIENTS, STEPS, BATCH, 2, 4, 4, generator=stream)
    labels = torch.randint(0, CLASSES, (CLIENTS, STEPS, BATCH), generator=stream)
    weight = torch.cat([torch.ones(CLIENTS, STEPS, BATCH), torch.zeros(CLIENTS, STEPS, padding)], 2)
    x = torch.cat([x, 100 + x[:, :, :1].repeat_interleave(padding, 2)], 2)
    return x, torch.cat([labels, labels[:, :, :1].repeat_interleave(padding, 2)], 2), weight


def trained(model, back_end, optimizer, data, key_N=None):
    params_ND = model.init(generator(0, "model")).repeat(CLIENTS, 1)
    updates_ND = torch.full_like(params_ND, torch.nan)
    source = with_keys(lambda rows, step: tuple(each[rows, step] for each in data), key_N)
    back_end.train(updates_ND, lambda rows: params_ND[rows], model, source, optimizer)
    return params_ND + updates_ND


BACK_ENDS = [Backend("vmap", 2, 1, ""), Backend("loop", 1, 2, "")]
SETTINGS = [Optimizer(STEPS, 0.1, 0.9, 1e-3), Optimizer(STEPS, 0.1, clip_norm=0.3), Optimizer(STEPS, 0.01, name="adam")]
SETTINGS += [Optimizer(STEPS, 0.01, weight_decay=0.1, name="adam")]


def named_tensors(module):
    return dict([*module.named_parameters(), *module.named_buffers()])


@pytest.mark.parametrize("optimizer", SETTINGS, ids=lambda each: f"{each.name}{each.momentum}{each.weight_decay}")
@pytest.mark.parametrize("arguments", [{}, {"momentum": None, "affine": False}])
def test_both_back_ends_train_as_the_module_under_torch(optimizer, arguments):
    model = from_module(lambda: Net(**arguments))
    data, expected = batches(), []
    x, labels, _ = data
    for client in range(CLIENTS):
        module = Net(**arguments)
        with torch.no_grad():
            for name, value in model.layout.views(model.init(generator(0, "model"))).items():
                named_tensors(module)[name].copy_(value)
        step = torch_steps(module, optimizer)
        for at in range(STEPS):
            step(cross_entropy(module(x[client, at]), labels[client, at]))
        expected.append(model.layout.flatten({key: value.detach() for key, value in named_tensors(module).items()}))
        own_D = expected[-1]
        torch.testing.assert_close(model.apply(model.named(own_D), x[client, 0]), module.eval()(x[client, 0]).detach())
    for back_end in BACK_ENDS:
        for padding in (0, 3):
            found_ND = trained(model, back_end, optimizer, batches(padding))
            torch.testing.assert_close(found_ND, torch.stack(expected), rtol=1e-4, atol=2e-5)


def test_a_single_real_value_moves_the_running_mean_alone():
    model = from_module(lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, CLASSES)))
    x, labels, weight = batches()
    weight[:, :, 1:] = 0
    found = model.layout.views(trained(model, BACK_ENDS[0], Optimizer(1, 0.1), (x, labels, weight)))
    torch.testing.assert_close(found["1.running_mean"], 0.1 * x[:, 0, 0].flatten(1))
    torch.testing.assert_close(found["1.running_var"], torch.ones(CLIENTS, 32))


def test_dropout_is_keyed():
    model, plain = from_module(lambda: Net(0.5)), from_module(Net)
    assert (model.draws, plain.draws) == (True, False)
    key_N, optimizer = torch.tensor([5, 6, 7]), SETTINGS[0]
    before = torch.random.get_rng_state()
    rows = [trained(model, back_end, optimizer, batches(pad), key_N) for back_end in BACK_ENDS for pad in (0, 3)]
    for other in rows[1:]:
        torch.testing.assert_close(other, rows[0], rtol=1e-4, atol=2e-5)
    changed = trained(model, BACK_ENDS[0], optimizer, batches(), key_N.roll(1))
    assert (changed - rows[0]).abs().max() > 0.01
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("p", "spatial"), [(0.1, 0), (0.5, 1), (0.75, 2), (1.0, 0)])
def test_dropout_zeroes_its_share_and_keeps_the_mean(p, spatial):
    layer, x = KeyedDropout(p, spatial), torch.ones(100, 40, 5, 5)

    def drop(key):
        token = PASS.set(TrainingPass(torch.ones(100), key))
        try:
            return layer(x), layer(x)
        finally:
            PASS.reset(token)

    (first, second), (other, _) = drop(torch.tensor(3)), drop(torch.tensor(4))
    dropped = (first == 0).flatten(4 - spatial) if spatial else first == 0
    share = dropped.double().mean()
    assert abs(share - p) <= 5 * (p * (1 - p) / (dropped.numel() / 5**spatial)) ** 0.5
    torch.testing.assert_close(first[first != 0], torch.full_like(first[first != 0], 1 / max(1 - p, 1e-9)))
    if spatial:
        assert torch.equal(first.amin(tuple(range(4 - spatial, 4))), first.amax(tuple(range(4 - spatial, 4))))
    if p < 1:
        agreement = ((first == 0) == (second == 0)).double().mean(), ((first == 0) == (other == 0)).double().mean()
        for each in agreement:
            assert abs(each - (p**2 + (1 - p) ** 2)) < 0.05
    assert torch.equal(layer.eval()(x), x)


def test_hashed_uniforms_are_uniform_and_differ_between_keys():
    drawn = torch.func.vmap(lambda key: hashed_uniforms(key, 1000))(torch.arange(200))
    assert torch.equal(drawn[7], hashed_uniforms(torch.tensor(7), 10, 100).flatten())
    counts = torch.histc(drawn, 20, 0, 1)
    assert ((counts - 10000).square() / 10000).sum() < 50  # chi-squared of 19 degrees of freedom
    assert torch.corrcoef(drawn[:50]).fill_diagonal_(0).abs().max() < 0.2


def test_the_start_is_the_module_s_own_and_global_state_stays():
    before = torch.random.get_rng_state()
    model = from_module(Net)
    first_D = model.init(generator(0, "model"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert list(model.constants) == ["scale"]
    views = model.layout.views(first_D)
    assert (views["norm.weight"] == 1).all()
    assert (views["norm.running_var"] == 1).all()
    assert views["conv.weight"].abs().max() <= 1 / 18**0.5
    assert model.layout.trained == sum(each.numel() for each in Net().parameters())


def test_shared_parameters_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, x):
            return self.out(self.embedding(x))

    model = from_module(Tied, loss=next_token_loss, label_shape=(6,))
    assert model.layout.shapes == {"embedding.weight": (7, 4)}
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(0, 7, (CLIENTS, STEPS, BATCH, 6), generator=stream)
    labels = torch.cat([x[..., 1:], torch.full_like(x[..., :1], -1)], -1)
    data = (x, labels, torch.ones(CLIENTS, STEPS, BATCH))
    rows = [trained(model, back_end, Optimizer(STEPS, 0.5), data) for back_end in BACK_ENDS]
    torch.testing.assert_close(*rows)
    module = Tied()
    with torch.no_grad():
        module.embedding.weight.copy_(model.init(generator(0, "model")).view(7, 4))
    step = torch_steps(module, Optimizer(STEPS, 0.5))
    for at in range(STEPS):
        step(cross_entropy(module(x[1, at]).flatten(0, 1), labels[1, at].flatten(), ignore_index=-1))
    torch.testing.assert_close(rows[0][1], module.embedding.weight.detach().flatten())
    sample = torch.empty(6, dtype=torch.int64, device="meta")
    assert choose_backend("auto", None, model, sample, 5, 3, CPU).name == "vmap"


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, CLASSES)

    def forward(self, x):
        x = self.layer(x.flatten(1))
        return x if x.sum() >= 0 else -x


def test_auto_falls_back_to_the_loop_where_vmap_cannot():
    model = from_module(Branch)
    chosen = choose_backend("auto", None, model, SAMPLE, 5, 3, CPU)
    assert (chosen.name, chosen.chunk) == ("loop", 1)
    assert chosen.reason.startswith("vmap cannot transform the model: vmap: It looks like you're either (1) calling")
    assert trained(model, chosen, SETTINGS[0], batches()).isfinite().all()
    for name, chunk, said in (("vmap", None, "backend='vmap'"), ("auto", 3, "chunk=3")):
        with pytest.raises(UserError, match=f"^{said}: vmap cannot transform model 'Branch' .*backend='loop'$"):
            choose_backend(name, chunk, model, SAMPLE, 5, 3, CPU)


class Calls(nn.Module):
    """A linear layer, and a function of its output."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(32, CLASSES), function

    def forward(self, x):
        return self.function(self.layer(x.flatten(1)))


class Counter(nn.Module):
    """A module with a state that is no running statistic."""

    def __init__(self, in_place=True):
        super().__init__()
        self.in_place = in_place
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.count += 1
        else:
            self.count = self.count + 1
        return x / self.count


REFUSED = [
    (lambda: Calls(nn.functional.dropout), "model 'Calls' cannot be trained: it draws random numbers"),
    (lambda: Calls(lambda x: (x, x)), "the module must return the logits, a tensor; got tuple"),
    (lambda: Calls(lambda x: x.view(2, -1, 7)), r"cannot be trained on samples of shape \(2, 4, 4\): "),
    (lambda: Calls(Counter()), "the module changes its tensor 'function.count' in a forward pass"),
    (lambda: Calls(Counter(in_place=False)), "the module changes its tensor 'function.count' in a forward pass"),
    (
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(32, 3))),
        "the module changes its tensor '1.parametrizations.weight.0._",
    ),
    (
        lambda: nn.Sequential(nn.Flatten(0, 1), nn.Unflatten(0, (-1, 2)), nn.Flatten(0, 1), nn.BatchNorm1d(4)),
        "batch normalisation '3' gets 4 rows for a batch of 2 samples",
    ),
]


@pytest.mark.parametrize(("build", "said"), REFUSED)
def test_modules_that_cannot_be_trained_alike_are_refused(build, said):
    with pytest.raises(UserError, match=said):
        choose_backend("auto", None, from_module(build), SAMPLE, 5, 3, CPU)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (nn.Linear(2, 3), "takes a function that returns the module; got a module"),
        (lambda: 3, "must return a torch.nn.Module; got int"),
        (lambda: nn.LazyLinear(3), "parameter 'weight' is lazy and has no shape"),
        (lambda: nn.Linear(2, 3).double(), "parameter 'weight' is of type torch.float64; allowed: torch.float32"),
        (lambda: nn.Linear(2, 3).requires_grad_(False), "module Linear: no parameter requires a gradient"),
        (nn.Identity, "module Identity: no parameter requires a gradient"),
        (lambda: nn.BatchNorm1d(3, track_running_stats=False), "keeps no running statistics"),
    ],
)
def test_what_is_no_such_module_is_refused(build, said):
    with pytest.raises(UserError, match=said):
        from_module(build)


def test_tensors_of_a_module_s_own_are_measured_on_the_cpu():
    class Own(Branch):
        def forward(self, x):
            return self.layer((x * torch.ones(1, 2, 4, 4).clone()).flatten(1)) + self.mine

        mine = torch.ones(1, CLASSES)

    model = from_module(Own)
    assert activation_bytes(model, SAMPLE) > 0
    assert choose_backend("auto", None, model, SAMPLE, 5, 3, CPU).name == "vmap"


def test_memory_counts_carried_columns():
    model = resnet((1, 12, 12), 5, width=4)
    sample = torch.empty(1, 12, 12, device="meta")
    grown = bytes_per_client(model, sample, 7, 5) - bytes_per_client(model, sample, 7, 4)
    assert grown == 4 * model.layout.size > 4 * model.layout.trained
