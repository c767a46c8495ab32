"""A disk that is full, a folder that is gone or cannot be written to: one line, and what was done is not lost."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rflbat import UserError, resume, run
from rflbat.cli.main import main
from rflbat.storage.run_folder import CHECKPOINT, PREVIOUS
from rflbat.storage.tensors import load_tensors, save_tensors
from tests.engine.durability.disk import At, watched
from tests.engine.durability.experiments import ROUNDS, assert_same, experiment

FOOLSGOLD = experiment("foolsgold")
SETTINGS = {
    **{"clients": 9, "participants": 7, "rounds": ROUNDS, "local-steps": 2, "batch-size": 7, "momentum": 0.5},
    **{"partition": "dirichlet", "malicious": 0.3, "checkpoint-every": 2, "defense": "foolsgold"},
    **{"shadow": "foolsgold,median", "device": "cpu"},
}
WORDS = ["run", *(word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))), "--quiet", "--out"]


def full(kind: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refusal_of(work: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("straight") / "run"
    run(FOOLSGOLD, path)
    return path


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    at, path = At(-1, False, full), tmp_path_factory.mktemp("events") / "run"
    with watched(at):
        run(FOOLSGOLD, path)
    return at.seen


@pytest.fixture
def unfinished(straight: Path, tmp_path: Path) -> Path:
    """A run with two checkpoints of which the last round's lines and the summary are missing."""
    path = Path(shutil.copytree(straight, tmp_path / "run"))
    (path / "summary.json").unlink()
    return path


# A full disk.


@pytest.mark.parametrize("middle", [False, True])
def test_a_disk_that_is_full_at_any_event(tmp_path: Path, straight: Path, events: list[str], middle: bool) -> None:
    """At every write in turn, whole or half written; then there is room again. Clearing up afterwards may not fail."""
    writes = [number for number, kind in enumerate(events) if kind not in ("unlink", "ftruncate")]
    assert len(writes) > 40
    for number in writes[middle::2]:
        path = tmp_path / str(number)
        with watched(At(number, middle, full)):
            message = refusal_of(lambda path=path: run(FOOLSGOLD, path))
        assert "No space left on device" in message
        assert str(path) in message
        if not (path / "run.json").exists():
            run(FOOLSGOLD, path)
        else:
            good = [path / name for name in (CHECKPOINT, PREVIOUS) if (path / name).exists()]
            done = f"the checkpoint of round {load_tensors(good[0])[1]['round']}" if good else "the start"
            assert f"`rflbat resume {path}` continues from {done}" in message
            resume(path)
        assert_same(path, straight)


def test_a_disk_that_is_full_when_a_run_is_resumed(tmp_path: Path, straight: Path, unfinished: Path) -> None:
    shutil.copy(unfinished / PREVIOUS, unfinished / CHECKPOINT)
    (unfinished / PREVIOUS).unlink()
    at = At(-1, False, full)
    counted = Path(shutil.copytree(unfinished, tmp_path / "counted"))
    with watched(at):
        resume(counted)
    for number in range(1, len(at.seen), 5):
        path = Path(shutil.copytree(unfinished, tmp_path / str(number)))
        if at.seen[number] in ("unlink", "ftruncate"):
            continue
        with watched(At(number, True, full)):
            assert "No space left on device" in refusal_of(lambda path=path: resume(path))
        resume(path)
        for name in ("rounds.jsonl", "clients.jsonl", "shadows.jsonl"):
            assert (path / name).read_bytes() == (straight / name).read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a file system of a size of its own can be mounted by root alone, and not in every container")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("room", [2**13, 2**15, 300_000, 600_000])
def test_a_full_file_system(
    small_disk: Path, straight: Path, room: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FoolsGold's checkpoint has 0.6 MB: there is room for no line, for no checkpoint, for one."""
    monkeypatch.delenv("RFLBAT_DATA_DIR", raising=False)
    path, ballast = small_disk / "run", small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - room))
    assert main([*WORDS, str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("rflbat: ")
    assert "No space left on device" in err
    kept = contents(path) if path.exists() else {}
    assert not any(name.endswith(".partial") for name in kept)
    if "run.json" in kept:
        assert f"`rflbat resume {path}`" in err
        assert main(["resume", str(path), "--quiet"]) == 2  # still full
        assert "No space left on device" in capsys.readouterr().err
        assert {name: text for name, text in contents(path).items() if name.startswith("checkpoint")} == {
            name: text for name, text in kept.items() if name.startswith("checkpoint")
        }
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main(["resume", str(path), "--quiet"] if "run.json" in kept else [*WORDS, str(path)]) == 0
    for name in ("rounds.jsonl", "clients.jsonl", "shadows.jsonl"):
        assert (path / name).read_bytes() == (straight / name).read_bytes()


# A folder that is gone, or cannot be written to.


class After:
    """Do something after a round."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.number, self.act = number, act

    def on_start(self, run: object) -> None:
        pass

    def on_round(self, record: dict[str, object]) -> None:
        if record["round"] == self.number:
            self.act()

    def on_end(self, summary: object) -> None:
        pass


@pytest.mark.parametrize("number", range(ROUNDS - 1))
def test_a_folder_that_vanishes(tmp_path: Path, number: int) -> None:
    path = tmp_path / "run"
    message = refusal_of(lambda: run(FOOLSGOLD, path, [After(number, lambda: shutil.rmtree(path))]))
    assert f"the run folder {path} no longer exists" in message
    assert not path.exists()


def test_a_folder_that_was_moved_away_goes_on_there(tmp_path: Path, straight: Path) -> None:
    path, moved = tmp_path / "run", tmp_path / "moved"
    assert "no longer exists" in refusal_of(lambda: run(FOOLSGOLD, path, [After(2, lambda: path.rename(moved))]))
    resume(moved)
    assert_same(moved, straight)


REFUSALS = [errno.EACCES, errno.EROFS]


@pytest.mark.parametrize("number", REFUSALS, ids=["permission", "read only"])
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, unfinished: Path, number: int) -> None:
    """Message of the system; file modes do not stop the superuser, who may run this test."""
    before, real = contents(unfinished), os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for work in (lambda: resume(unfinished), lambda: run(FOOLSGOLD, tmp_path / "new")):
            assert f"cannot make a run folder or write to it: {os.strerror(number)}" in refusal_of(work)
    assert contents(unfinished) == before


# Checkpoints that cannot be used.


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "text": lambda content: b"not a checkpoint\n",
    "older version": lambda content: content.replace(b"rflbat checkpoint 1", b"rflbat checkpoint 0"),
    "of another seed": lambda content: _of(content, seed=1),
    "of other rounds": lambda content: _of(content, rounds=7),
}


def _of(content: bytes, **settings: int) -> bytes:
    """The checkpoint of a run with other settings, whole in itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CHECKPOINT
        path.write_bytes(content)
        tensors, meta = load_tensors(path)
        save_tensors(path, tensors, {**meta, "config": {**meta["config"], **settings}})
        return path.read_bytes()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_checkpoint_that_cannot_be_used_names_the_one_before(unfinished: Path, straight: Path, kind: str) -> None:
    damage(unfinished / CHECKPOINT, DAMAGES[kind])
    before = contents(unfinished)
    message = refusal_of(lambda: resume(unfinished))
    assert message.startswith(f"{unfinished / CHECKPOINT}: ")
    way = f"mv {unfinished / PREVIOUS} {unfinished / CHECKPOINT}"
    assert f"the previous one is intact: `{way}` returns to round 4" in message
    assert contents(unfinished) == before
    subprocess.run(way.split(), check=True)
    resume(unfinished)
    for name in ("rounds.jsonl", "clients.jsonl", "shadows.jsonl"):
        assert (unfinished / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.parametrize("kind", DAMAGES)
def test_without_a_good_one_the_run_can_start_again(unfinished: Path, straight: Path, kind: str) -> None:
    for name in (CHECKPOINT, PREVIOUS):
        damage(unfinished / name, DAMAGES[kind])
    before = contents(unfinished)
    message = refusal_of(lambda: resume(unfinished))
    way = f"rm {unfinished / CHECKPOINT} {unfinished / PREVIOUS}"
    assert f"without it the run restarts from round 0 and reaches the same result: `{way}`" in message
    assert contents(unfinished) == before
    subprocess.run(way.split(), check=True)
    resume(unfinished)
    assert_same(unfinished, straight)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda tensors, meta: meta.pop("round"), "round None, allowed: 0 to 5"),
        (lambda tensors, meta: meta.update(round=-1), "round -1, allowed: 0 to 5"),
        (lambda tensors, meta: meta.update(round=6), "round 6, allowed: 0 to 5"),
        (lambda tensors, meta: meta.update(round=True), "round True"),
        (lambda tensors, meta: meta.update(round=10**30), "round 1000000000000000000000000000000"),
        (lambda tensors, meta: meta.update(seconds="long"), "seconds 'long'"),
        (lambda tensors, meta: meta.pop("seconds"), "seconds None"),
        (lambda tensors, meta: meta.pop("config"), "belongs to a run with other settings"),
        (lambda tensors, meta: tensors.pop("params_D"), "does not fit the model: parameters (0,)"),
        (lambda tensors, meta: tensors.update(params_D=tensors["params_D"][1:]), "does not fit the model"),
        (lambda tensors, meta: tensors.update(params_D=tensors["params_D"].double()), "does not fit the model"),
        (lambda tensors, meta: tensors.pop("defense.history_CD"), "does not fit 'defense'"),
        (lambda tensors, meta: tensors.pop("shadow.foolsgold.history_CD"), "does not fit 'shadow.foolsgold'"),
        (
            lambda tensors, meta: tensors.update({"defense.history_CD": tensors["defense.history_CD"].half()}),
            "does not fit 'defense'",
        ),
    ],
)
def test_a_checkpoint_made_to_mislead_is_refused(
    unfinished: Path, change: Callable[[dict[str, object], dict[str, object]], object], what: str
) -> None:
    """Its checksum is right, since anybody can compute it."""
    tensors, meta = load_tensors(unfinished / CHECKPOINT)
    change(tensors, meta)
    save_tensors(unfinished / CHECKPOINT, tensors, meta)
    message = refusal_of(lambda: resume(unfinished))
    assert what in message
    assert "the previous one is intact" in message
