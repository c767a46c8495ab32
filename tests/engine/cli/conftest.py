"""The command line in an empty folder: call it, or make a mistake and check what all mistakes have in common."""

import io
import re
import shlex
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from rflbat.cli.main import main
from rflbat.experiment.recipes import RECIPES, Recipe

Call = Callable[[str], tuple[int, str, str]]
Mistake = Callable[[str], str]


class Done(NamedTuple):
    """A command that went well: where it worked and what it printed."""

    path: Path
    out: str


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def settle(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Work in a folder, in a wide log without colours, away from the user's data and cache."""
    patch.chdir(folder)
    for name in ("RFLBAT_DATA_DIR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        patch.delenv(name, raising=False)
    patch.setenv("COLUMNS", "200")
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def succeed(folder: Path, line: str) -> Done:
    """Run a command that succeeds; for fixtures that several tests share."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        settle(folder, patch)
        assert main(shlex.split(line)) == 0
    assert err.getvalue() == ""
    return Done(folder, out.getvalue())


@pytest.fixture(autouse=True)
def _settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command; gives exit status, standard output and standard error."""

    def called(line: str) -> tuple[int, str, str]:
        status = main(shlex.split(line))
        return status, *capsys.readouterr()

    return called


@pytest.fixture
def mistake(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mistake:
    """Call the command wrongly; gives the one line that it says."""
    # Ends soon if a mistake is missed.
    tiny = {**RECIPES["smoke"].settings, "clients": 5, "rounds": 1, "local_steps": 1, "batch_size": 9}
    monkeypatch.setitem(RECIPES, "smoke", Recipe("", tiny))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def made(line: str) -> str:
        before = everything(tmp_path)
        status, out, err = call(line)
        assert (status, out) == (2, "")
        assert re.fullmatch(r"rflbat: .*\w.*\n", err), err
        assert everything(tmp_path) == before
        return err

    return made
