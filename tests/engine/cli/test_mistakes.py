"""Every mistake is one line on standard error, exit status 2, before any work: no output, and no folder left behind.

Each line of a table is a command, and behind the arrow what its message must hold.
"""

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.engine.cli.conftest import Mistake
from tests.engine.cli.test_flags import FLAGS

NAMES = """
runn -> 'runn' | did you mean 'run'?
--bogus -> '--bogus' | doctor
run smoek -> recipe 'smoek' | did you mean 'smoke'?
sweep smoek --out s -> recipe 'smoek' | did you mean 'smoke'?
run smoke extra -> 'extra'
run --roundz 3 -> --roundz | did you mean '--rounds'?
run --round 3 -> --round; | did you mean '--rounds'?
run --no-quiet -> --no-quiet | did you mean '--quiet'?
run --quiet=3 -> '3'
sweep --out s --grod x -> --grod | did you mean '--grid'?
resume nosuch --qiet -> --qiet | did you mean '--quiet'?
report nosuch --qiet -> --qiet | did you mean '--quiet'?
resume a b -> 'b'
report a b -> 'b'
doctor --bogus -> --bogus
doctor extra -> 'extra'
run --dataset mnits -> data set 'mnits' | did you mean 'mnist'? | fashion-mnist
run --dataset imagenet -> data set 'imagenet' | known: digits
run --model logistik -> model 'logistik' | did you mean 'logistic'?
run --attack pixl -> attack 'pixl' | did you mean 'pixel'?
run --defense krumm -> defense 'krumm' | did you mean 'krum'? | fedavg
run --partition idd -> partition='idd' | did you mean 'iid'? | dirichlet
run --roles fix -> roles='fix' | did you mean 'fixed'? | redrawn
run --device gpu -> device='gpu' | did you mean 'cpu'? | auto
run --device cuda -> device='cuda' | allowed: auto, cpu
run --backend vmapp -> backend='vmapp' | did you mean 'vmap'? | loop
run --kernels kmean=cuml -> kernels: | 'kmean' | did you mean 'kmeans'? | gram
run --kernels kmeans=cumll -> kernels: kmeans | 'cumll' | did you mean 'cuml'? | auto, reference
run --kernels kmeans=cuml -> kernels: kmeans=cuml | cuda alone, not on cpu | allowed there: reference
sweep --out s --kernels kmeans=cuml -> kernels: kmeans=cuml | cuda alone, not on cpu
list datset -> kind 'datset' | did you mean 'datasets'? | kernels
list --bogus -> --bogus
list datasets extra -> extra
list datasets --bogus -> --bogus
show -> one name
show krum rfa -> one name
show krumm -> 'krumm' | did you mean 'krum'?
"""
VALUES = """
run --clients 0 -> clients=0 | at least 1
run --clients 1443 -> 1443 | at most 1442
run --participants 0 -> participants=0 | at least 1
run --participants 6 -> participants=6 | clients=5
run --rounds 0 -> rounds=0 | at least 1
run --local-steps 0 -> local_steps=0 | at least 1
run --batch-size 0 -> batch_size=0 | at least 1
run --chunk 0 -> chunk=0 | at least 1
run --eval-every 0 -> eval_every=0 | at least 1
run --checkpoint-every 0 -> checkpoint_every=0 | at least 1
run --attack-start -1 -> attack_start=-1 | at least 0
run --target -1 -> target=-1 | at least 0
run --target 10 -> target=10 | 0 to 9
run --malicious -0.1 -> malicious=-0.1 | 0 to 1
run --malicious 1.01 -> malicious=1.01 | 0 to 1
run --malicious nan -> malicious=nan | 0 to 1
run --momentum -0.1 -> momentum=-0.1 | 0 to below 1
run --momentum 1 -> momentum=1.0 | 0 to below 1
run --momentum nan -> momentum=nan | 0 to below 1
run --weight-decay -1 -> weight_decay=-1.0 | at least 0
run --weight-decay nan -> weight_decay=nan | at least 0
run --weight-decay inf -> weight_decay=inf
run --scale nan -> scale=nan | finite
run --scale -inf -> scale=-inf | finite
run --alpha 0 -> alpha=0.0 | above 0
run --alpha nan -> alpha=nan | above 0
run --lr 0 -> lr=0.0 | above 0
run --lr -0.1 -> lr=-0.1 | above 0
run --lr nan -> lr=nan | above 0
run --lr inf -> lr=inf
run --server-lr 0 -> server_lr=0.0 | above 0
run --server-lr inf -> server_lr=inf
run --partition natural -> natural | who wrote
run --partition dirichlet --alpha 1e10 -> 10000000000.0 | 1e+09
"""
ARGUMENTS = """
run --defense-arg clusters -> --defense-arg 'clusters' | name=value
run --defense-arg clusters= -> 'clusters=' | name=value
run --defense-arg =3 -> '=3' | name=value
run --kernels gram -> --kernels 'gram' | name=value
run --kernels gram=reference --kernels gram=auto -> --kernels | 'gram' twice
run --attack-arg size -> --attack-arg 'size' | name=value
run --defense-arg cluster=3 -> 'cluster' | did you mean 'clusters'? | eps1
run --defense fedavg --defense-arg f=1 -> 'f' | it takes none
run --attack-arg sze=3 -> 'sze' | did you mean 'size'?
run --attack-arg size=0 -> size=0 | 1 to 28
run --attack-arg size=29 -> size=29 | 1 to 28
run --attack-arg share=nan -> share | nan
run --defense-arg clusters=0 -> clusters=0
run --defense-arg clusters=gop -> 'gop' | gap
run --defense-arg clusters=1.5 -> 1.5
run --defense-arg eps1=wide -> 'wide' | float
run --defense-arg eps1=nan -> eps1 | nan
run --defense-arg eps2=nan -> eps2 | nan
run --defense-arg eps2=-1 -> eps2=-1
run --defense-arg weighting=sample -> 'sample' | did you mean 'samples'?
run --defense foolsgold --defense-arg memory=maybe -> 'maybe' | bool
run --defense foolsgold --defense-arg kappa=0 -> kappa=0
run --defense foolsgold --defense-arg kappa=nan -> kappa | nan
run --defense geomed --defense-arg tolerance=nan -> tolerance | nan
run --defense rfa --defense-arg nu=nan -> nu | nan
run --defense rfa --defense-arg passes=0 -> passes=0
run --defense krum --defense-arg f=-1 -> f=-1
run --defense krum --defense-arg f=all -> 'all' | true
run --defense krum --defense-arg f=3 -> f=3 | got 5
run --defense multikrum --defense-arg m=0 -> m=0
"""
GRIDS = """
sweep -> --out DIR
sweep --out s --grid defense -> --grid 'defense' | name=value
sweep --out s --grid =krum -> '=krum' | name=value
sweep --out s --grid defense= -> 'defense=' | name=value
sweep --out s --grid defense=krum, -> defense ''
sweep --out s --grid defens=krum -> 'defens' | did you mean 'defense'?
sweep --out s --grid defense=rflbat,krumm -> 'krumm' | did you mean 'krum'?
sweep --out s --grid rounds=1,many -> rounds='many'
sweep --out s --grid malicious=0.1,1.1 -> malicious=1.1 | 0 to 1
sweep --out s --grid defense_arg.cluster=3 -> 'cluster' | did you mean 'clusters'?
sweep --out s --grid defense=krum,krum -> twice
sweep --out s --grid malicious=0.1,0.10 -> twice
sweep --out s --grid defense=krum --grid defense=fedavg -> defense
sweep --out s --grid seed=5 -> seed
sweep --out s --grid target=0,10 -> target=10 | 0 to 9
sweep --out s --seeds 0 -> seeds=0 | at least 1
sweep --out s --seeds few -> --seeds | few
sweep --out s --jobs 0 -> jobs=0 | at least 1
sweep --out s --jobs all -> --jobs | all
sweep --out a.file -> a.file
"""
FOLDERS = """
run --dataset mnist --data-dir nosuch -> nosuch: there is no such folder | torchvision
run --dataset mnist --data-dir empty -> empty: holds no MNIST | torchvision
run --dataset mnist --data-dir lacking -> lacking/mnist: train-labels-idx1-ubyte | not found
run --out held -> held already holds a run | rflbat resume held
run --out a.file -> a.file: cannot make a run folder
run --out a.file/run -> a.file/run: cannot make a run folder
resume nosuch -> nosuch/run.json | not the folder of a run
resume empty -> empty/run.json | not the folder of a run
resume damaged -> damaged/run.json | config
report nosuch -> nosuch/run.json | not the folder of a run
report empty -> empty/run.json | not the folder of a run
report unfinished -> unfinished: none of the 1 runs
"""
FILES = """
run --config nosuch.toml -> nosuch.toml | No such file
run --config=nosuch.toml -> nosuch.toml | No such file
run --config empty -> empty | Is a directory
run --config syntax.toml -> syntax.toml | not TOML
run --config binary.toml -> binary.toml | not TOML
run --config unknown.toml -> 'roundz' | did you mean 'rounds'?
run --config text.toml -> rounds='many' | int
run --config list.toml -> rounds=[1] | int
run --config fraction.toml -> rounds=1.5 | int
run --config yes.toml -> rounds=True | int
run --config number.toml -> dataset=3 | str
run --config args.toml -> defense_args=3 | dict
run --config kernels.toml -> kernels: 'gram'=3 | names
run --config range.toml -> lr=nan | above 0
run --config defense.toml -> 'cluster' | did you mean 'clusters'?
sweep --out s --config unknown.toml -> 'roundz' | did you mean 'rounds'?
"""
TOML = {
    "syntax": "rounds = ",
    "unknown": "roundz = 3",
    "text": "rounds = 'many'",
    "list": "rounds = [1]",
    "fraction": "rounds = 1.5",
    "yes": "rounds = true",
    "number": "dataset = 3",
    "args": "defense_args = 3",
    "kernels": "[kernels]\ngram = 3",
    "range": "lr = nan",
    "defense": "[defense_args]\ncluster = 3",
}
WHOLE = (
    *("--clients", "--participants", "--attack-start", "--target", "--rounds", "--local-steps", "--batch-size"),
    *("--seed", "--chunk", "--eval-every", "--checkpoint-every"),
)
FRACTION = ("--alpha", "--malicious", "--scale", "--lr", "--momentum", "--weight-decay", "--server-lr")


def rows(*tables: str) -> list[Any]:
    split = [line.split(" -> ") for line in "".join(tables).splitlines() if line]
    return [pytest.param(command, parts.split(" | "), id=command) for command, parts in split]


@pytest.mark.parametrize(("line", "parts"), rows(NAMES, VALUES, ARGUMENTS, GRIDS))
def test_mistake_in_words(line: str, parts: list[str], mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "a.file").write_text("")
    said = mistake(line)
    assert [part for part in parts if part not in said] == [], said


@pytest.mark.parametrize(("line", "parts"), rows(FOLDERS, FILES))
def test_mistake_in_files(line: str, parts: list[str], mistake: Mistake, tmp_path: Path) -> None:
    for name in ("empty", "lacking/mnist", "held", "damaged", "unfinished/cells/one"):
        (tmp_path / name).mkdir(parents=True)
    for name, text in TOML.items():
        (tmp_path / f"{name}.toml").write_text(text)
    for name in ("a.file", "lacking/mnist/train-images-idx3-ubyte", "held/rounds.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "damaged/run.json").write_text("{}")
    said = mistake(line)
    assert [part for part in parts if part not in said] == [], said


@pytest.mark.parametrize("flag", [*WHOLE, *FRACTION])
def test_not_a_number(flag: str, mistake: Mistake) -> None:
    said = mistake(f"run {flag} many")
    assert flag in said
    assert "many" in said


@pytest.mark.parametrize("flag", WHOLE)
def test_not_a_whole_number(flag: str, mistake: Mistake) -> None:
    said = mistake(f"run {flag} 1.5")
    assert flag in said
    assert "1.5" in said


@pytest.mark.parametrize("flag", sorted(FLAGS["run"] - {"--quiet", "--help", "--dry-run", "--drop-last"}))
def test_missing_value(flag: str, mistake: Mistake) -> None:
    assert flag in mistake(f"run {flag}")


def test_missing_value_before_a_flag(mistake: Mistake) -> None:
    assert "--rounds" in mistake("run --rounds --quiet")


@pytest.mark.parametrize("flag", ["--rounds", "--chunk", "--lr"])
def test_narrow_terminal_cuts_nothing_off(flag: str, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said = mistake(f"run {flag} many")
    assert flag in said
    assert "many" in said


@pytest.mark.parametrize("command", ["resume", "report"])
def test_missing_folder(command: str, mistake: Mistake) -> None:
    assert "dir" in mistake(command).lower()


def test_mistake_where_only_ascii_can_be_shown(mistake: Mistake) -> None:
    with redirect_stdout(io.StringIO()):  # of unknown encoding
        assert "many" in mistake("run --rounds many")


def test_mistake_that_holds_a_line_break(mistake: Mistake) -> None:
    assert "did you mean 'digits'?" in mistake("run --dataset 'di\ngits'")


def test_exit_status_of_a_mistake() -> None:
    script = "import sys; from rflbat.cli.main import main; sys.exit(main())"
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "--defense", "krumm"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "did you mean 'krum'?" in done.stderr
