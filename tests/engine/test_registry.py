"""Defenses, attacks, models and data sets of other packages: found by name, checked, run, put through the battery.

The defense is the one of the tutorial, so that what the tutorial says is true.
"""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rflbat.cli.catalog import show
from rflbat.cli.main import main
from rflbat.defenses.registry import DEFENSES, make_defense
from rflbat.errors import UserError

OTHERS = '''
import torch
from rflbat.attacks.base import Attack, SampleFormat
from rflbat.attacks.scaling import scaling
from rflbat.data.base import Dataset
from rflbat.data.digits import load
from rflbat.defenses.base import Decision, Defense, NoState, Updates, decide
from rflbat.models.base import Model
from rflbat.models.logistic import logistic
from rflbat.randomness import Draw


def first_only() -> Defense:
    """Keep the first client, whoever it is: the battery must find that."""

    def apply(updates: Updates, state: NoState, draw: Draw) -> Decision:
        first_N = torch.arange(len(updates.valid_N)) == 0
        return decide(updates, first_N.double(), first_N.double(), stage_N=torch.where(first_N, 0, 2))

    return Defense("first_only", ("kept", "nonfinite", "later"), apply)


def stripe(samples: SampleFormat, scale: float, *, share: float = 0.5) -> Attack:
    """The top row is lit."""
    _, height, width = samples.shape

    def trigger(x, on_B):
        x[:, :, 0] = torch.where(on_B[:, None, None], samples.high, x[:, :, 0])
        return x

    return Attack("stripe", (trigger,), trigger, share, scaling(scale))


def linear(shape: tuple[int, ...], classes: int, words: int = 0) -> Model:
    """Logistic regression by another name."""
    return logistic(shape, classes, words)


def few(data_dir) -> Dataset:
    """The digits once more."""
    return load()


def secretive():
    return short()


number = 3
'''
ROOT = Path(__file__).parents[2]


def code_of(tutorial: str) -> str:
    """The first block of Python of a tutorial."""
    text = (ROOT / "docs/tutorials" / tutorial).read_text(encoding="utf-8")
    return text.partition("```python\n")[2].partition("```")[0]


def commands_of(tutorial: str) -> list[list[str]]:
    """Commands of a tutorial."""
    text = (ROOT / "docs/tutorials" / tutorial).read_text(encoding="utf-8")
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(code_of("own_defense.md") + OTHERS)
    (tmp_path / "checkerboard.py").write_text(code_of("own_attack.md"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mine", "checkerboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


SMALL = "--clients 7 --rounds 2 --local-steps 1 --batch-size 9 --device cpu --quiet"


def test_a_whole_run_with_parts_of_another_package(here: Path) -> None:
    theirs = "--dataset mine:few --model mine:linear --attack mine:stripe --defense mine:short --defense-arg factor=1.1"
    assert main(f"run {SMALL} {theirs} --shadow krum,mine:first_only --out run".split()) == 0
    assert main(["resume", "run", "--quiet"]) == 0
    assert main(["report", "run", "--quiet"]) == 0
    assert '"mine:short"' in (here / "run/run.json").read_text()
    assert '"long"' in (here / "run/clients.jsonl").read_text()


def test_an_installed_package_names_its_members_by_entry_points(here: Path) -> None:
    about = here / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[rflbat.defenses]\nshortest = mine:short\nbroken = mine:nothing\n")
    assert make_defense("shortest", {"factor": "0.3"}).name == "short"
    assert {"krum", "shortest"} <= set(DEFENSES.names())
    assert "shortest" not in DEFENSES  # the battery's rows are ours alone
    with pytest.raises(UserError, match=r"'broken' of an installed package cannot be loaded: .*nothing"):
        make_defense("broken", {})
    with pytest.raises(UserError, match=r"did you mean 'shortest'"):
        make_defense("shortst", {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine:shrt", r"module 'mine' has no 'shrt'; did you mean 'short'\?"),
        ("nowhere:short", r"module 'nowhere' cannot be imported: No module named 'nowhere'"),
        ("mine:secretive", r"must be annotated to return Defense; it has no such annotation"),
        ("mine:stripe", r"must be annotated to return Defense; it returns <class 'rflbat.attacks.base.Attack'>"),
        ("mine:number", r"must be annotated to return Defense"),
        ("os:system", r"must be annotated to return Defense"),
        ("shutil:rmtree", r"must be annotated to return Defense"),
        ("mine:", r"unknown defense 'mine:'"),
        (":short", r"unknown defense ':short'"),
    ],
)
def test_what_is_no_defense_is_refused_before_it_is_called(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_defense(name, {})


def test_parameters_are_checked_as_ours_are() -> None:
    with pytest.raises(UserError, match="did you mean 'factor'"):
        make_defense("mine:short", {"facto": "0.1"})


def test_show_prints_their_page() -> None:
    assert "Keep updates whose norm is at most ``factor`` times the median norm." in show("mine:short")
    with pytest.raises(UserError, match="cannot be imported"):
        show("nowhere:short")


@pytest.mark.parametrize("tutorial", ["own_defense.md", "own_attack.md"])
def test_what_the_tutorials_say_to_type_runs(tutorial: str, here: Path) -> None:
    typed = [words for words in commands_of(tutorial) if words[0] == "rflbat"]
    assert typed
    for number, words in enumerate(typed):
        few = "--clients 7 --rounds 1 --local-steps 1 --quiet --device cpu"
        assert main([*words[1:], *few.split(), "--out", f"run{number}"]) == 0


def battery(name: str, here: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "rflbat.testing.plugin"]
    command = [*command[:1], "-P", *command[1:]]  # as `pytest` alone: the current folder is not on the path
    environment = {"PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'kernels'}", "PATH": ""}
    return subprocess.run(
        [*command, f"--rflbat-battery={name}"], cwd=here, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_battery_passes_a_sound_defense_and_finds_an_unsound_one(here: Path) -> None:
    sound = battery("mine.short", here)
    assert ["pytest", "--rflbat-battery", "mine.short"] in commands_of("own_defense.md")
    assert sound.returncode == 0, sound.stdout
    assert " passed" in sound.stdout
    unsound = battery("mine:first_only", here)
    assert unsound.returncode == 1
    assert "FAILED" in unsound.stdout
    assert "test_permuted_clients_permute_the_answer" in unsound.stdout


@pytest.mark.parametrize("name", ["mine:stripe", "mine:linear"])
def test_the_batteries_of_attacks_and_models_pass_sound_ones(name: str, here: Path) -> None:
    done = battery(name, here)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_the_battery_says_in_one_line_what_it_does_not_find(here: Path) -> None:
    done = battery("mine.shorts", here)
    assert done.returncode == 4
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("ERROR: --rflbat-battery mine.shorts: ")
