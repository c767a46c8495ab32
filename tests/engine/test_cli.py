"""The command line: frozen flags, one line for every mistake, whole runs, sweeps and Ctrl-C. All on the digits."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rflbat import cli, simulation
from rflbat.cli import main
from rflbat.config import Experiment
from rflbat.errors import UserError
from rflbat.recipes import RECIPES, smoke
from rflbat.results import checkpoint
from rflbat.simulation import Interrupted

SMALL = "--clients 7 --rounds 3 --local-steps 2 --batch-size 9 --malicious 0.4 --seed 5"
SETTINGS = ["--dataset", "--data-dir", "--clients", "--participants", "--partition", "--alpha", "--model", "--attack", "--attack-arg", "--malicious", "--roles", "--attack-start", "--scale", "--target", "--defense", "--defense-arg", "--rounds", "--local-steps", "--batch-size", "--lr", "--momentum", "--weight-decay", "--server-lr", "--seed", "--device", "--backend", "--chunk", "--eval-every", "--checkpoint-every"]
FLAGS = {
    "run": {*SETTINGS, "--out", "--config", "--quiet", "--help"},
    "sweep": {*SETTINGS, "--grid", "--seeds", "--jobs", "--out", "--config", "--quiet", "--help"},
    "resume": {"--quiet", "--help"},
    "report": {"--quiet", "--help"},
    "doctor": {"--data-dir", "--help"},
}
PROMISED = ["--dataset", "--data-dir", "--clients", "--participants", "--partition", "--alpha", "--model", "--attack", "--malicious", "--roles", "--attack-start", "--scale", "--target", "--defense", "--defense-arg", "--rounds", "--local-steps", "--batch-size", "--lr", "--seed", "--device", "--eval-every", "--out", "--config", "--quiet"]
NUMBERS = {
    "--clients": int, "--participants": int, "--alpha": float, "--malicious": float, "--attack-start": int,
    "--scale": float, "--target": int, "--rounds": int, "--local-steps": int, "--batch-size": int, "--lr": float,
    "--momentum": float, "--weight-decay": float, "--server-lr": float, "--seed": int, "--chunk": int,
    "--eval-every": int, "--checkpoint-every": int,
}  # fmt: skip

Call = Callable[[str], tuple[int, str, str]]


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, in a wide log without colours, away from the user's data and cache."""
    monkeypatch.chdir(tmp_path)
    for name in ("RFLBAT_DATA_DIR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def called(line: str) -> tuple[int, str, str]:
        status = main(shlex.split(line))
        return status, *capsys.readouterr()

    return called


@pytest.fixture
def mistake(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make a mistake and check all that every mistake has in common; gives the line."""
    tiny = replace(smoke(), clients=5, rounds=1, local_steps=1, batch_size=9)  # ends soon where a mistake is missed
    monkeypatch.setitem(RECIPES, "smoke", lambda: tiny)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def made(line: str) -> str:
        before = everything(tmp_path)
        status, out, err = call(line)
        assert (status, out) == (2, "")
        assert re.fullmatch(r"rflbat: .*\w.*\n", err), err
        assert everything(tmp_path) == before
        return err

    return made


# ---------------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_frozen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out, err = capsys.readouterr()
    assert (stop.value.code, err) == (0, "")
    assert set(re.findall(r"^│ (?:-h, )?(--[a-z-]+)", out, re.MULTILINE)) == FLAGS[command]
    assert ("STR" in out.splitlines()[0]) == (command in {"resume", "report"})


def test_flags_hold_all_that_was_promised_and_every_setting() -> None:
    repeated = {"defense_args": "--defense-arg", "attack_args": "--attack-arg"}
    assert set(PROMISED) <= FLAGS["run"]
    assert {repeated.get(f.name, f"--{f.name.replace('_', '-')}") for f in fields(Experiment)} == set(SETTINGS)
    assert set(cli.COMMANDS) == {"run", "resume", "sweep", "report", "list", "show", "doctor"}


@pytest.mark.parametrize("command", ["run", "resume", "sweep", "report", "list", "show", "doctor"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main([command, "--help"])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert len(out.splitlines()) > 2


@pytest.mark.parametrize("line", ["", "-h", "--help"])
def test_usage_names_every_command(line: str, call: Call) -> None:
    status, out, err = call(line)
    assert (status, err) == (0, "")
    assert all(f"\n  {command} " in out for command in cli.COMMANDS)


def test_version(call: Call) -> None:
    assert re.fullmatch(r"rflbat \d+\.\d+\.\d+\n", call("--version")[1])


# ------------------------------------------------------------------------------------------------------- mistakes

NAMES = [
    ("runn", "'runn'", "did you mean 'run'?"),
    ("--bogus", "'--bogus'", "doctor"),
    ("run smoek", "'smoek'", "did you mean 'smoke'?"),
    ("sweep smoek --out s", "'smoek'", "did you mean 'smoke'?"),
    ("run smoke extra", "'extra'"),
    ("run --roundz 3", "--roundz", "did you mean '--rounds'?"),
    ("run --round 3", "--round;", "did you mean '--rounds'?"),
    ("run --no-quiet", "--no-quiet", "did you mean '--quiet'?"),
    ("run --quiet=3", "'3'"),
    ("sweep --out s --grod x", "--grod", "did you mean '--grid'?"),
    ("resume nosuch --qiet", "--qiet", "did you mean '--quiet'?"),
    ("report nosuch --qiet", "--qiet", "did you mean '--quiet'?"),
    ("resume a b", "'b'"),
    ("report a b", "'b'"),
    ("doctor --bogus", "--bogus"),
    ("doctor extra", "'extra'"),
    ("run --dataset mnits", "'mnits'", "did you mean 'mnist'?", "fashion-mnist"),
    ("run --dataset imagenet", "'imagenet'", "known: digits"),
    ("run --dataset 'di\ngits'", "did you mean 'digits'?"),
    ("run --model logistik", "'logistik'", "did you mean 'logistic'?"),
    ("run --attack pixl", "'pixl'", "did you mean 'pixel'?"),
    ("run --defense krumm", "'krumm'", "did you mean 'krum'?", "fedavg"),
    ("run --partition idd", "'idd'", "did you mean 'iid'?", "dirichlet"),
    ("run --roles fix", "'fix'", "did you mean 'fixed'?", "redrawn"),
    ("run --device gpu", "'gpu'", "did you mean 'cpu'?", "auto"),
    ("run --device cuda", "'cuda'", "CUDA"),
    ("run --backend vmapp", "'vmapp'", "did you mean 'vmap'?", "loop"),
    ("list datset", "'datset'", "did you mean 'datasets'?", "kernels"),
    ("list --bogus", "'--bogus'"),
    ("list datasets extra", "extra"),
    ("list datasets --bogus", "--bogus"),
    ("show", "takes one name"),
    ("show krum rfa", "takes one name"),
    ("show krumm", "'krumm'", "did you mean 'krum'?"),
]
VALUES = [
    *[(f"run {flag} 0", f"{flag[2:].replace('-', '_')}=0", "at least 1") for flag in (
        "--clients", "--participants", "--rounds", "--local-steps", "--batch-size", "--chunk", "--eval-every",
        "--checkpoint-every")],
    *[(f"run {flag} -1", f"{flag[2:].replace('-', '_')}=-1", "at least 0") for flag in (
        "--attack-start", "--target", "--weight-decay")],
    *[(f"run {flag} {value}", f"{flag[2:].replace('-', '_')}={float(value)}", "above 0")
      for flag in ("--alpha", "--lr", "--server-lr") for value in ("0", "-0.5", "nan", "inf")],
    *[(f"run --malicious {value}", f"malicious={value}", "0 to 1") for value in ("-0.1", "1.01", "nan", "inf")],
    *[(f"run --momentum {value}", f"momentum={value}", "0 to below 1") for value in ("-0.1", "1.0", "nan")],
    *[(f"run --weight-decay {value}", f"weight_decay={value}") for value in ("nan", "inf")],
    *[(f"run --scale {value}", f"scale={value}", "finite") for value in ("nan", "inf", "-inf")],
    ("run --participants 6", "participants=6", "clients=5"),
    ("run --clients 1443", "1443", "at most 1442"),
    ("run --target 10", "target=10", "0 to 9"),
    ("run --partition natural", "natural", "who wrote"),
    ("run --partition dirichlet --alpha 1e10", "10000000000.0", "1e+09"),
]  # fmt: skip
ARGUMENTS = [
    ("run --defense-arg clusters", "--defense-arg 'clusters'", "name=value"),
    ("run --defense-arg clusters=", "'clusters='", "name=value"),
    ("run --defense-arg =3", "'=3'", "name=value"),
    ("run --attack-arg size", "--attack-arg 'size'", "name=value"),
    ("run --defense-arg cluster=3", "'cluster'", "did you mean 'clusters'?", "eps1"),
    ("run --defense fedavg --defense-arg f=1", "'f'", "it takes none"),
    ("run --attack-arg sze=3", "'sze'", "did you mean 'size'?"),
    ("run --attack-arg size=0", "size=0", "1..28"),
    ("run --attack-arg size=29", "size=29", "1..28"),
    ("run --attack-arg share=nan", "share=nan", "0..1"),
    ("run --defense-arg clusters=0", "clusters=0"),
    ("run --defense-arg clusters=gop", "'gop'", "gap"),
    ("run --defense-arg clusters=1.5", "1.5"),
    ("run --defense-arg eps1=wide", "'wide'", "float"),
    ("run --defense-arg eps1=nan", "eps1=nan"),
    ("run --defense-arg eps2=-1", "eps2=-1"),
    ("run --defense-arg weighting=sample", "'sample'", "did you mean 'samples'?"),
    ("run --defense foolsgold --defense-arg memory=maybe", "'maybe'", "bool"),
    ("run --defense foolsgold --defense-arg kappa=nan", "kappa=nan"),
    ("run --defense geomed --defense-arg tolerance=nan", "tolerance=nan"),
    ("run --defense rfa --defense-arg nu=nan", "nu=nan"),
    ("run --defense rfa --defense-arg passes=0", "passes=0"),
    ("run --defense krum --defense-arg f=-1", "f=-1"),
    ("run --defense krum --defense-arg f=all", "'all'", "true"),
    ("run --defense krum --defense-arg f=3", "f=3", "5 clients"),
    ("run --defense multikrum --defense-arg m=0", "m=0"),
]
FOLDERS = [
    ("run --dataset mnist --data-dir nosuch", "nosuch: there is no such folder", "torchvision"),
    ("run --dataset mnist --data-dir empty", "empty: holds no MNIST", "torchvision"),
    ("run --dataset mnist --data-dir lacking", "lacking/mnist: train-labels-idx1-ubyte", "not found"),
    ("run --out held", "held already holds a run", "rflbat resume held"),
    ("run --out a.file", "a.file: cannot make a run folder"),
    ("run --out a.file/run", "a.file/run: cannot make a run folder"),
    *[(f"{command} {folder}", f"{folder}/run.json", "not the folder of a run")
      for command in ("resume", "report") for folder in ("nosuch", "empty", "lacking")],
    ("resume damaged", "damaged/run.json", "config"),
    ("report unfinished", "unfinished: none of the 1 runs"),
    ("resume", "DIR"),
    ("report", "DIR"),
]  # fmt: skip
FILES = [
    ("run --config nosuch.toml", "nosuch.toml", "No such file"),
    ("run --config=nosuch.toml", "nosuch.toml", "No such file"),
    ("run --config empty", "empty", "Is a directory"),
    ("run --config syntax.toml", "syntax.toml", "not TOML"),
    ("run --config binary.toml", "binary.toml", "not TOML"),
    ("run --config unknown.toml", "'roundz'", "did you mean 'rounds'?"),
    ("run --config text.toml", "rounds='many'", "int"),
    ("run --config list.toml", "rounds=[1]", "int"),
    ("run --config fraction.toml", "rounds=1.5", "int"),
    ("run --config yes.toml", "rounds=True", "int"),
    ("run --config number.toml", "dataset=3", "str"),
    ("run --config args.toml", "defense_args=3", "dict"),
    ("run --config range.toml", "lr=nan", "above 0"),
    ("run --config defense.toml", "'cluster'", "did you mean 'clusters'?"),
    ("sweep --out s --config unknown.toml", "'roundz'", "did you mean 'rounds'?"),
]
TOML = {
    "syntax": "rounds = ", "unknown": "roundz = 3", "text": "rounds = 'many'", "list": "rounds = [1]",
    "fraction": "rounds = 1.5", "yes": "rounds = true", "number": "dataset = 3", "args": "defense_args = 3",
    "range": "lr = nan", "defense": "[defense_args]\ncluster = 3",
}  # fmt: skip
GRIDS = [
    ("sweep", "--out DIR"),
    ("sweep --out s --grid defense", "--grid 'defense'", "name=value"),
    ("sweep --out s --grid =krum", "'=krum'", "name=value"),
    ("sweep --out s --grid defense=", "'defense='", "name=value"),
    ("sweep --out s --grid defense=krum,", "unknown defense ''"),
    ("sweep --out s --grid defens=krum", "'defens'", "did you mean 'defense'?"),
    ("sweep --out s --grid defense=rflbat,krumm", "'krumm'", "did you mean 'krum'?"),
    ("sweep --out s --grid rounds=1,many", "rounds='many'"),
    ("sweep --out s --grid malicious=0.1,1.1", "malicious=1.1", "0 to 1"),
    ("sweep --out s --grid defense_arg.cluster=3", "'cluster'", "did you mean 'clusters'?"),
    ("sweep --out s --grid defense=krum,krum", "twice"),
    ("sweep --out s --grid malicious=0.1,0.10", "twice"),
    ("sweep --out s --grid defense=krum --grid defense=fedavg", "defense"),
    ("sweep --out s --grid seed=5", "seed"),
    ("sweep --out s --grid target=0,10", "target=10", "0 to 9"),
    ("sweep --out s --seeds 0", "seeds=0", "at least 1"),
    ("sweep --out s --seeds few", "--seeds", "few"),
    ("sweep --out s --jobs 0", "jobs=0", "at least 1"),
    ("sweep --out s --jobs all", "--jobs", "all"),
    ("sweep --out a.file", "a.file"),
]


@pytest.mark.parametrize(("line", *["parts"]), [(row[0], row[1:]) for row in (*NAMES, *VALUES, *ARGUMENTS, *GRIDS)])
def test_mistake_in_words(line: str, parts: tuple[str, ...], mistake: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "a.file").write_text("")
    said = mistake(line)
    assert [part for part in parts if part not in said] == []


@pytest.mark.parametrize(("line", "parts"), [(row[0], row[1:]) for row in (*FOLDERS, *FILES)])
def test_mistake_in_files(line: str, parts: tuple[str, ...], mistake: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "a.file").write_text("")
    for name, text in TOML.items():
        (tmp_path / f"{name}.toml").write_text(text)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("empty", "lacking/mnist", "held", "damaged", "unfinished/cells/one"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lacking/mnist/train-images-idx3-ubyte").write_bytes(b"")
    (tmp_path / "held/rounds.jsonl").write_text("")
    (tmp_path / "damaged/run.json").write_text("{}")
    said = mistake(line)
    assert [part for part in parts if part not in said] == []


@pytest.mark.parametrize("columns", ["200", "40"])
@pytest.mark.parametrize("flag", NUMBERS)
def test_not_a_number(flag: str, columns: str, mistake: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)  # the message is the same on a narrow terminal
    for value in ("many", "1.5") if NUMBERS[flag] is int else ("many",):
        said = mistake(f"run {flag} {value}")
        assert flag in said
        assert value in said


@pytest.mark.parametrize("flag", sorted(FLAGS["run"] - {"--quiet", "--help"}))
def test_missing_value(flag: str, mistake: Callable[[str], str]) -> None:
    assert flag in mistake(f"run {flag}")
    assert flag in mistake(f"run {flag} --quiet")


def test_mistake_where_only_ascii_can_be_shown(mistake: Callable[[str], str]) -> None:
    with redirect_stdout(io.StringIO()):  # has no encoding, so boxes are drawn in ASCII
        assert "many" in mistake("run --rounds many")


# ----------------------------------------------------------------------------------------------------- precedence


@pytest.fixture
def settle(call: Call, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Experiment]:
    """Give the experiment that a command line asks for, without running it."""
    asked: list[Experiment] = []

    def stop(experiment: Experiment, *_: Any) -> None:
        asked.append(experiment)
        raise UserError("settled")

    monkeypatch.setattr(cli, "run", stop)
    mine = Experiment(clients=9, rounds=4, lr=0.3, defense="rflbat", defense_args={"eps1": 9.0, "weighting": "samples"})
    monkeypatch.setitem(RECIPES, "mine", lambda: mine)

    def settled(line: str) -> Experiment:
        assert call(line) == (2, "", "rflbat: settled\n")
        return asked.pop()

    return settled


def test_flags_override_toml_overrides_recipe(settle: Callable[[str], Experiment], tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("rounds = 6\nlr = 0.2\n[defense_args]\neps2 = 3\n")
    told = settle("run mine --config own.toml --lr 0.1 --partition dirichlet")
    assert (told.clients, told.rounds, told.lr, told.partition) == (9, 6, 0.1, "dirichlet")
    assert settle("run mine --lr=0.1 --config=own.toml") == replace(told, partition="iid")
    assert settle("run").to_dict() == smoke().to_dict() == settle("run smoke").to_dict()
    assert settle("run mnist").to_dict() == RECIPES["mnist"]().to_dict()


def test_parameters_of_a_recipe_belong_to_its_defense(settle: Callable[[str], Experiment], tmp_path: Path) -> None:
    assert settle("run mine --defense-arg weighting=uniform").defense_args == {"eps1": 9.0, "weighting": "uniform"}
    assert settle("run mine --defense rflbat").defense_args == {"eps1": 9.0, "weighting": "samples"}
    assert settle("run mine --defense krum").defense_args == {}


def test_parameters_of_a_recipe_do_not_reach_the_defense_of_a_file(
    settle: Callable[[str], Experiment], tmp_path: Path
) -> None:
    (tmp_path / "krum.toml").write_text("defense = 'krum'")
    assert settle("run mine --config krum.toml").defense_args == {}


def test_parameters_are_kept_as_what_they_are(settle: Callable[[str], Experiment]) -> None:
    told = settle("run --defense-arg clusters=3 --defense-arg eps1=9 --attack-arg size=4")
    assert (told.defense_args, told.attack_args) == ({"clusters": 3, "eps1": 9.0}, {"size": 4})


# ------------------------------------------------------------------------------------------------------ whole runs


class Done(NamedTuple):
    path: Path
    out: str


def command(folder: Path, line: str) -> Done:
    """Run a command that succeeds, in its own folder; for fixtures that many tests share."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.delenv("RFLBAT_DATA_DIR", raising=False)
        patch.setenv("COLUMNS", "200")
        assert main(shlex.split(line)) == 0
    assert err.getvalue() == ""
    return Done(folder, out.getvalue())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    done = command(tmp_path_factory.mktemp("straight"), f"run {SMALL}")
    yield Done(done.path / "runs/digits-rflbat-5", done.out)


@pytest.fixture
def copy(straight: Done, tmp_path: Path) -> Path:
    return Path(shutil.copytree(straight.path, tmp_path / "copy"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_run_writes_every_file(straight: Done) -> None:
    names = {str(path.relative_to(straight.path)) for path in everything(straight.path) if path.is_file()}
    pictures = {name for name in names if name.startswith("figures/")}
    assert names - pictures == {
        "run.json", "rounds.jsonl", "clients.jsonl", "timings.jsonl", "summary.json", "checkpoint.safetensors",
    }  # fmt: skip
    assert len(pictures) == 5
    assert all((straight.path / name).read_bytes().startswith(b"\x89PNG\r\n") for name in pictures)
    run = json.loads((straight.path / "run.json").read_text())
    assert {"config", "versions", "machine", "device", "kernels", "backend", "sizes", "stages", "started"} <= set(run)
    assert set(run["config"]) == {item.name for item in fields(Experiment)}
    assert (run["config"]["rounds"], run["config"]["participants"], run["clients"]) == (3, 7, 7)
    assert run["config"]["model"] == "logistic"
    assert sorted(run["sizes"]) == [206] * 7
    assert run["stages"] == ["kept", "nonfinite", "filter1", "cluster", "filter2"]
    assert datetime.fromisoformat(run["started"]).tzinfo is not None
    tensors, meta = checkpoint.load(straight.path / "checkpoint.safetensors")
    assert (tensors["params_D"].shape, meta["round"]) == ((7850,), 3)


def test_run_records_the_documented_schema(straight: Done) -> None:
    rounds, clients = lines(straight.path / "rounds.jsonl"), lines(straight.path / "clients.jsonl")
    timings, summary = lines(straight.path / "timings.jsonl"), json.loads((straight.path / "summary.json").read_text())
    rates = {"accuracy", "attack_success_rate", "attack_success_rate_inclusive"}
    found = {"precision", "recall", "false_positive_rate", "malicious_weight"}
    assert [row["round"] for row in rounds] == [row["round"] for row in timings] == [0, 1, 2]
    for row in rounds:
        assert set(row) == rates | found | {
            "round", "kept", "dropped", "malicious", "nonfinite", "stages", "nobody_kept",
        }  # fmt: skip
        own = [client for client in clients if client["round"] == row["round"]]
        assert [client["client"] for client in own] == list(range(7))
        assert row["kept"] + row["dropped"] == 7
        assert row["dropped"] == sum(row["stages"].values())
        assert row["kept"] == sum(client["kept"] for client in own)
        assert row["malicious"] == sum(client["malicious"] for client in own) == 3
        assert sum(client["weight"] for client in own) == pytest.approx(1)
        assert all(0 <= row[name] <= 1 for name in rates)
    for client in clients:
        assert set(client) == {
            "round", "client", "malicious", "kept", "stage", "weight", "score", "coordinates", "cluster", "samples",
        }  # fmt: skip
        assert (client["stage"] == "kept") == client["kept"] == (client["weight"] > 0)
        assert (len(client["coordinates"]), client["samples"]) == (2, 206)
    assert all(set(row) == {"round", "seconds"} for row in timings)
    assert rates | found | {"rounds", "seconds", "defense", "dataset"} <= set(summary)
    assert {name: summary[name] for name in rates} == {name: rounds[-1][name] for name in rates}
    assert summary["seconds"] == pytest.approx(sum(row["seconds"] for row in timings))


def test_run_prints_plain_lines_where_there_is_no_terminal(straight: Done) -> None:
    assert "\x1b" not in straight.out
    assert "\r" not in straight.out
    shown = [line for line in straight.out.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in shown] == ["1/3", "2/3", "3/3"]
    assert all(re.search(r"accuracy \d+\.\d %  attack success \d+\.\d %  kept \d dropped \d", line) for line in shown)
    assert "\nrun folder: runs/digits-rflbat-5\n" in straight.out
    assert "\n  runs/digits-rflbat-5/figures/accuracy_and_attack.png\n" in straight.out


def test_report_draws_again_and_quiet_prints_nothing(copy: Path, straight: Done, call: Call) -> None:
    shutil.rmtree(copy / "figures")
    assert call("report copy --quiet") == (0, "", "")
    assert {path.name for path in (copy / "figures").iterdir()} == {
        p.name for p in (straight.path / "figures").iterdir()
    }
    status, out, err = call("report copy")
    assert (status, err) == (0, "")
    assert "run folder: copy" in out


def test_resume_of_a_finished_run_changes_nothing(copy: Path, call: Call) -> None:
    kept = {path: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert call("resume copy --quiet") == (0, "", "")
    assert {path: path.read_bytes() for path in copy.iterdir() if path.is_file()} == kept


def test_second_run_gets_a_folder_of_its_own(call: Call, tmp_path: Path) -> None:
    for _ in range(2):
        assert call(f"run {SMALL} --rounds 1 --defense fedavg --quiet") == (0, "", "")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits-fedavg-5", "digits-fedavg-5-2"}


# ---------------------------------------------------------------------------------------------------------- Ctrl-C


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int, call: Call, line: str) -> tuple[str, str]:
    """Press Ctrl-C in round ``at``, counted from 0; gives the words on standard output and the one line of error."""
    real = simulation.run_round

    def stopping(world: Any, server: Any) -> Any:
        if server.round_number == at:
            raise KeyboardInterrupt
        return real(world, server)

    with monkeypatch.context() as patch:
        patch.setattr(simulation, "run_round", stopping)
        status, out, err = call(line)
    assert status == 130
    assert err.count("\n") == 1
    return out, err


@pytest.mark.parametrize("folder", ["stopped", "'two words'"])
def test_the_command_shown_after_ctrl_c_finishes_the_run(
    folder: str, straight: Done, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = interrupted(monkeypatch, 2, call, f"run {SMALL} --out {folder}")
    assert [line.split()[1] for line in out.splitlines()] == ["1/3", "2/3"]
    path = Path(shlex.split(folder)[0])
    assert (path / "checkpoint.safetensors").is_file()
    assert not (path / "summary.json").exists()
    shown = re.fullmatch(r"rflbat: interrupted after 2 rounds; go on with `rflbat (resume .*)`\n", err)
    assert shown
    assert shlex.split(shown[1]) == ["resume", str(path)]
    assert call(f"{shown[1]} --quiet") == (0, "", "")
    for name in ("rounds.jsonl", "clients.jsonl"):
        assert (path / name).read_bytes() == (straight.path / name).read_bytes()
    seconds = {"seconds": 0.0}
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (path, straight.path))
    assert one | seconds == other | seconds
    assert len(list((path / "figures").iterdir())) == 5


def test_ctrl_c_while_data_are_read(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(_: Experiment) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "build", build)
    try:
        status, out, err = call(f"run {SMALL}")
    except KeyboardInterrupt:  # would stop pytest itself
        pytest.fail("Ctrl-C outside of the rounds ends in a traceback")
    assert (status, out, err.count("\n")) == (130, "", 1)
    assert everything(tmp_path) == set()


SCRIPT = [sys.executable, "-c", "import sys; from rflbat.cli import main; sys.exit(main())"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def test_exit_status_of_a_mistake() -> None:
    done = subprocess.run([*SCRIPT, "run", "--defense", "krumm"], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "did you mean 'krum'?" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_exit_status_of_ctrl_c(tmp_path: Path) -> None:
    line = shlex.split(f"run {SMALL} --rounds 1000000 --eval-every 1 --device cpu --out long")
    pipe = subprocess.PIPE
    with subprocess.Popen([*SCRIPT, *line], env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("round 1/1000000 ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (130, 1)
    assert "`rflbat resume long`" in err


# ----------------------------------------------------------------------------------------------------------- sweep

GRID = (
    "--clients 5 --rounds 1 --local-steps 1 --batch-size 9 --seed 3 --grid defense=fedavg,krum --grid malicious=0.2,0.6"
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Done:
    done = command(tmp_path_factory.mktemp("swept"), f"sweep {GRID} --seeds 2 --jobs 1 --out all")
    return Done(done.path / "all", done.out)


def test_sweep_runs_the_grid(swept: Done) -> None:
    cells = {path.name: path for path in (swept.path / "cells").iterdir()}
    assert set(cells) == {
        f"defense={name},malicious={share},seed={seed}"
        for name in ("fedavg", "krum") for share in (0.2, 0.6) for seed in (3, 4)
    }  # fmt: skip
    for name, path in cells.items():
        config = json.loads((path / "run.json").read_text())["config"]
        assert name == ",".join(f"{key}={config[key]}" for key in ("defense", "malicious", "seed"))
    with open(swept.path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["defense"], row["malicious"], row["seeds"]) for row in rows] == [
        ("fedavg", "0.2", "2"), ("krum", "0.2", "2"), ("fedavg", "0.6", "2"), ("krum", "0.6", "2"),
    ]  # fmt: skip
    for row in rows:
        start = f"defense={row['defense']},malicious={row['malicious']},"
        values = [
            json.loads((p / "summary.json").read_text())["accuracy"] for n, p in cells.items() if n.startswith(start)
        ]
        assert float(row["accuracy_mean"]) == pytest.approx(sum(values) / 2)
    assert (swept.path / "table.md").read_text().count("\n| ") == 6
    assert (swept.path / "figures/sweep.png").is_file()
    assert re.findall(r"^cell (\d)/8  defense=", swept.out, re.MULTILINE) == list("12345678")
    assert "\x1b" not in swept.out


def test_sweep_again_runs_nothing_twice(swept: Done, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "run_round", None)
    monkeypatch.chdir(swept.path.parent)
    assert call(f"sweep {GRID} --seeds 2 --out all --quiet") == (0, "", "")


def test_sweep_refuses_the_folder_of_another_sweep(
    swept: Done, mistake: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(swept.path.parent)
    said = mistake(f"sweep {GRID} --seeds 2 --out all --lr 0.2")
    assert "defense=fedavg,malicious=0.2,seed=3 holds a run with another lr" in said


def test_report_of_a_sweep_names_unfinished_cells(swept: Done, call: Call, tmp_path: Path) -> None:
    for name in ("fedavg", "krum"):
        cell = f"cells/defense={name},malicious=0.2,seed=3"
        shutil.copytree(swept.path / cell, tmp_path / "some" / cell)
    (tmp_path / "some" / cell / "summary.json").unlink()
    status, out, err = call("report some")
    assert (status, err) == (0, "")
    assert "unfinished: defense=krum,malicious=0.2,seed=3\n" in out
    assert call("report some --quiet") == (0, "", "")
    assert (tmp_path / "some/table.csv").read_text().count("\n") == 2


def test_sweep_goes_on_after_ctrl_c(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = f"sweep {GRID} --rounds 2 --grid defense=fedavg --grid malicious=0.2 --out half --quiet".replace(
        "--grid defense=fedavg,krum --grid malicious=0.2,0.6 ", ""
    )
    interrupted(monkeypatch, 1, call, line)
    cell = tmp_path / "half/cells/defense=fedavg,malicious=0.2,seed=3"
    assert len(lines(cell / "rounds.jsonl")) == 1
    assert call(line) == (0, "", "")
    assert [row["round"] for row in lines(cell / "rounds.jsonl")] == [0, 1]


def test_sweep_over_defenses_keeps_parameters_with_their_defense(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = replace(smoke(), clients=5, rounds=1, local_steps=1, batch_size=9, defense_args={"eps1": 9.0})
    monkeypatch.setitem(RECIPES, "mine", lambda: mine)
    assert call("sweep mine --grid defense=rflbat,fedavg --out two --quiet") == (0, "", "")
    configs = [json.loads((path / "run.json").read_text())["config"] for path in (tmp_path / "two/cells").iterdir()]
    assert {c["defense"]: c["defense_args"] for c in configs} == {"rflbat": {"eps1": 9.0}, "fedavg": {}}


def test_an_interrupt_crosses_from_one_process_to_another() -> None:
    stop = Interrupted(Path("here"), 2)
    make, arguments = stop.__reduce__()[:2]
    again = make(*arguments)
    assert (str(again), again.folder, again.rounds) == (str(stop), stop.folder, stop.rounds)
