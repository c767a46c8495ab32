"""The commands that train nothing start without torch, whose import takes seconds."""

import shutil
import subprocess
import sys
from pathlib import Path

FINISHED = Path(__file__).parents[1] / "simulation/version_0_1/straight"
SCRIPT = """
import sys
from rflbat.cli.main import main
for words in (["--help"], ["--version"], ["list"], ["list", "kernels"], ["show", "krum"], ["show", "femnist"],
              ["show", "gram"], ["show", "mnist"], ["watch", "run"], ["report", "run"]):
    assert main(words) == 0, words
    assert "torch" not in sys.modules, words
import rflbat
assert "torch" not in sys.modules
assert rflbat.aggregate.__name__ == "aggregate" and "torch" in sys.modules
"""


def test_commands_that_train_nothing_do_not_import_torch(tmp_path: Path) -> None:
    shutil.copytree(FINISHED, tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
