"""The flags of every command, frozen: a change of a flag must change this list."""

import re
from dataclasses import fields

import pytest

from rflbat.cli.main import COMMANDS, main
from rflbat.experiment.config import Experiment
from tests.engine.cli.conftest import Call

SETTINGS = {
    *("--dataset", "--data-dir", "--clients", "--participants", "--partition", "--alpha", "--model"),
    *("--dataset-arg", "--model-arg", "--tokenizer", "--shadow", "--optimizer", "--clip-norm", "--drop-last"),
    *("--attack", "--attack-arg", "--malicious", "--roles", "--attack-start", "--scale", "--target"),
    *(
        "--defense",
        "--defense-arg",
        "--root-samples",
        "--rounds",
        "--local-steps",
        "--batch-size",
        "--lr",
        "--momentum",
    ),
    *("--weight-decay", "--server-lr", "--seed", "--device", "--backend", "--chunk", "--kernels"),
    *("--eval-every", "--checkpoint-every", "--augment", "--start", "--before", "--batch-norm", "--defense-vector"),
    *("--attack-stop", "--attack-every", "--attack-rule", "--attack-rule-arg", "--attack-lr", "--attack-momentum"),
    *("--attack-weight-decay", "--attack-steps", "--attack-epochs", "--local-epochs", "--local-rule"),
    *("--local-rule-arg", "--lr-schedule", "--lr-schedule-arg", "--server-optimizer", "--server-optimizer-arg"),
}
FLAGS = {
    "run": {*SETTINGS, "--out", "--config", "--track", "--quiet", "--dry-run", "--help"},
    "sweep": {
        *SETTINGS,
        *("--grid", "--seeds", "--jobs", "--launcher", "--gpus-per-cell", "--out", "--config", "--quiet", "--help"),
    },
    "resume": {"--track", "--quiet", "--help"},
    "watch": {"--every", "--help"},
    "report": {"--quiet", "--help"},
    "export": {"--help"},
    "doctor": {"--data-dir", "--help"},
}
PROMISED = {
    *("--dataset", "--data-dir", "--clients", "--participants", "--partition", "--alpha", "--model", "--attack"),
    *("--malicious", "--roles", "--attack-start", "--scale", "--target", "--defense", "--defense-arg", "--rounds"),
    *("--local-steps", "--batch-size", "--lr", "--seed", "--device", "--eval-every", "--out", "--config", "--quiet"),
}
REPEATED = {
    "dataset_args": "--dataset-arg",
    "defense_args": "--defense-arg",
    "attack_args": "--attack-arg",
    "model_args": "--model-arg",
    "local_rule_args": "--local-rule-arg",
    "attack_rule_args": "--attack-rule-arg",
    "lr_schedule_args": "--lr-schedule-arg",
    "server_optimizer_args": "--server-optimizer-arg",
}


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_frozen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out, err = capsys.readouterr()
    assert (stop.value.code, err) == (0, "")
    assert set(re.findall(r"^\W{1,3}(?:-h, )?(--[a-z][a-z-]*)", out, re.MULTILINE)) == FLAGS[command]
    assert ("positional arguments" in out) == (command in {"resume", "watch", "report", "export"})


def test_flags_hold_all_that_was_promised_and_every_setting() -> None:
    assert FLAGS["run"] >= PROMISED
    assert {REPEATED.get(item.name, f"--{item.name.replace('_', '-')}") for item in fields(Experiment)} == SETTINGS
    assert set(COMMANDS) == {"run", "resume", "sweep", "watch", "report", "export", "list", "show", "doctor"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main([command, "--help"])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert len(out.splitlines()) > 2


def test_help_shows_the_recipe_s_values(capsys: pytest.CaptureFixture[str]) -> None:
    for recipe, dataset, rounds in (("smoke", "digits", 30), ("mnist", "mnist", 50)):
        with pytest.raises(SystemExit):
            main(["run", recipe, "--help"])
        out = capsys.readouterr().out
        assert f"(default: {dataset})" in out
        assert f"(default: {rounds})" in out


@pytest.mark.parametrize("line", ["", "-h", "--help"])
def test_usage_names_every_command(line: str, call: Call) -> None:
    status, out, err = call(line)
    assert (status, err) == (0, "")
    assert [command for command in COMMANDS if f"\n  {command} " not in out] == []


def test_version(call: Call) -> None:
    status, out, err = call("--version")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"rflbat \d+\.\d+\.\d+\n", out)
