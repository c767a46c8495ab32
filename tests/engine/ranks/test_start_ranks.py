"""Every rank reads the start of a run, and all must read the same."""

import torch
from safetensors.torch import save_file

from rflbat import Experiment, run
from rflbat.storage.tensors import load_tensors
from tests.engine.ranks.launch import drive
from tests.engine.ranks.test_ranks import SMALL

STARTED = {**SMALL, "defense": "median", "augment": "crop(padding=2),flip"}


def test_ranks_start_from_one_file_and_refuse_two(tmp_path):
    first, second = (tmp_path / f"{name}.safetensors" for name in ("first", "second"))
    drawn = torch.Generator().manual_seed(0)
    for file in (first, second):
        save_file({"weight": torch.randn(10, 784, generator=drawn), "bias": torch.zeros(10)}, file)
    run(Experiment(**STARTED, start=str(first)), tmp_path / "one")
    tasks = [["run", "two", {**STARTED, "start": str(first)}]]
    tasks += [["mistake", "unlike", {**STARTED, "start": [str(first), str(second)]}]]
    found = drive(2, tmp_path / "ranks", tasks)
    alone, shared = (
        load_tensors(folder / "checkpoint.safetensors")[0]["params_D"]
        for folder in (tmp_path / "one", tmp_path / "ranks" / "two")
    )
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)
    assert found[0]["two"]["params"] == found[1]["two"]["params"]
    for each in found:
        assert "the ranks read different parameters under this path" in each["unlike"]["said"]
