"""Every reader of files, fed damaged ones: it reads them, or says in one line what is wrong; never a traceback.

Damage is drawn from fixed seeds: cuts at many places, flipped bits, bytes put in, absurd numbers, deep nesting.
"""

import json
import random
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rflbat import Experiment, resume, run
from rflbat.cli.main import main
from rflbat.data import amazon, femnist, mnist
from rflbat.errors import UserError
from rflbat.report.build import report_run
from tests.engine.data.conftest import write_family
from tests.engine.data.leaf_files import write_femnist
from tests.engine.data.test_amazon import rows_of, write

SMALL = Experiment(
    clients=5, rounds=3, local_steps=1, batch_size=9, defense="foolsgold", device="cpu", checkpoint_every=2
)
NUMBERS = [b"1e999", b"-1", b"9" * 400, b"null", b"[]", b"{}", b'"' + b"x" * 300 + b'"', b"true", b"NaN", b"0.5"]
TOML = "rounds = 3\nlr = 0.1\ndefense = 'krum'\nmalicious = 0.5\n[defense_args]\nf = 1\n[kernels]\ngram = 'auto'\n"


def damaged(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Cut, flip, fill, and replace numbers; every piece of damage is different, and none is the content itself."""
    stream = random.Random(seed)
    for _ in range(count):
        at, kind = stream.randrange(len(content)), stream.randrange(6)
        if kind == 0:
            yield content[:at]
        elif kind == 1:
            yield content[:at] + bytes([content[at] ^ 1 << stream.randrange(8)]) + content[at + 1 :]
        elif kind == 2:
            yield content[:at] + stream.randbytes(stream.randrange(1, 9)) + content[at:]
        elif kind == 3:
            yield content[:at] + bytes(stream.randrange(1, 70)) + content[at + 30 :]
        elif kind == 4:
            digits = [place for place in range(len(content)) if content[place : place + 1].isdigit()] or [at]
            place = stream.choice(digits)
            yield content[:place] + stream.choice(NUMBERS) + content[place + 1 :]
        else:
            yield content[:at] + stream.choice([b"[", b'{"a":', b"(", b"a="]) * 50_000 + content[at:]


def read_or_refused(work: Callable[[], object], *named: Path) -> bool:
    """Let some work be done or refused in one line; say which."""
    said = refusal(work)
    assert said is None or ("\n" not in said and any(str(path) in said for path in named)), said
    return said is None


def refusal(work: Callable[[], object]) -> str | None:
    try:
        work()
    except UserError as error:
        return str(error)
    return None


def fuzz(path: Path, work: Callable[[], object], place: Path, seed: int, count: int) -> None:
    whole, refused = path.read_bytes(), 0
    for content in damaged(whole, seed, count):
        path.write_bytes(content)
        refused += not read_or_refused(work, path, place)
    path.write_bytes(whole)
    work()
    assert refused > count // 10


def fill(folder: Path) -> None:
    for packed in (False, True):
        write_family(folder / f"mnist{packed}", mnist.MNIST.first_labels, packed=packed)
        write_femnist(folder / f"femnist{packed}", end=".json.gz" if packed else ".json")
        (folder / f"amazon{packed}").mkdir()
        write(folder / f"amazon{packed}" / f"Reviews.csv{'.gz' * packed}", rows_of(), packed=packed)


LOADERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "images": (mnist.load, "mnistFalse/train-images-idx3-ubyte"),
    "packed images": (mnist.load, "mnistTrue/t10k-images-idx3-ubyte.gz"),
    "labels": (mnist.load, "mnistFalse/train-labels-idx1-ubyte"),
    "leaf": (femnist.load, "femnistFalse/leaf_test.json"),
    "packed leaf": (femnist.load, "femnistTrue/leaf_train.json.gz"),
    "reviews": (amazon.load, "amazonFalse/Reviews.csv"),
    "packed reviews": (amazon.load, "amazonTrue/Reviews.csv.gz"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(femnist, "_remember", lambda *rest: None)  # or every variant would be kept
    fill(tmp_path)
    load, place = LOADERS[name]
    path = tmp_path / place
    if name == "reviews":  # a flipped bit in a text is a valid text: only the message matters
        for content in damaged(path.read_bytes(), 0, 60):
            path.write_bytes(content)
            read_or_refused(lambda: load(path.parent), path, path.parent)
        return
    if name == "images":  # where a flipped bit in a pixel is a pixel: the header alone
        whole = path.read_bytes()
        for content in damaged(whole[:16], 0, 100):
            path.write_bytes(content + whole[16:])
            read_or_refused(lambda: load(path.parent), path, path.parent)
        return
    fuzz(path, lambda: load(path.parent), path.parent, 1, 60)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "run"
    run(SMALL, path)
    (path / "summary.json").unlink()
    return path


@pytest.mark.parametrize("name", ["run.json", "rounds.jsonl", "clients.jsonl", "checkpoint.safetensors"])
def test_run_folders(tmp_path: Path, finished: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign run folder is resumed: the run continues, or the error names the file."""
    monkeypatch.setattr("rflbat.simulation.loop._loop", lambda *rest: None)  # what follows is a run like any other
    whole, refused = (finished / name).read_bytes(), 0
    for number, content in enumerate(damaged(whole, 2, 40)):
        path = Path(shutil.copytree(finished, tmp_path / str(number)))
        (path / name).write_bytes(content)
        said = refusal(lambda path=path: resume(path))
        assert said is None or "\n" not in said
        refused += said is not None
    assert refused > 10


@pytest.mark.parametrize("name", ["run.json", "rounds.jsonl", "clients.jsonl"])
def test_deep_and_endless_lines_are_named(tmp_path: Path, finished: Path, name: str) -> None:
    path = Path(shutil.copytree(finished, tmp_path / "run"))
    (path / name).write_bytes(b"[" * 200_000 + b"\n" + b"]" * 200_000 + b"\n")
    with pytest.raises(UserError, match="damaged"):
        report_run(path)


def test_an_absurdly_large_run_json_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "run.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="it has more than 67108864 bytes"):
        resume(tmp_path)


def test_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command, whose exit status is 2 and which writes one line; `show` of it would run a whole run."""
    monkeypatch.setattr("rflbat.cli.runs.run", lambda *rest: pytest.skip("a configuration that fits"))
    path, refused = tmp_path / "settings.toml", 0
    for content in [*damaged(TOML.encode(), 3, 120), b"a = " + b"[" * 50_000, b"a" * 2**21, b"lr = " + b"9" * 400]:
        path.write_bytes(content)
        try:
            status = main(shlex.split(f"run --config {path} --out {tmp_path / 'out'}"))
        except pytest.skip.Exception:
            continue
        err = capsys.readouterr().err
        assert (status, err.count("\n")) == (2, 1), (content[:200], err)
        refused += 1
    assert refused > 60
    assert not (tmp_path / "out").exists()


def test_json_that_claims_what_is_not_there(tmp_path: Path) -> None:
    write_femnist(tmp_path)
    whole = json.loads((tmp_path / "leaf_test.json").read_text())
    for number in (2**40, -1, 10**400):
        (tmp_path / "leaf_test.json").write_text(json.dumps({**whole, "num_samples": [number] * len(whole["users"])}))
        with pytest.raises(UserError, match="num_samples says"):
            femnist.load(tmp_path)
