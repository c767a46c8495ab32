"""Flags of the command, made from the settings of an experiment; the only file that knows tyro."""

import contextlib
import io
import re
import tomllib
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rflbat.arguments import lookup
from rflbat.errors import UserError, nearest
from rflbat.experiment.config import METHODS, Experiment
from rflbat.experiment.recipes import RECIPES
from rflbat.storage.untrusted import read_bounded

REPEATED = {**{f"{setting}_args": f"{setting}_arg" for setting in METHODS}, "kernels": "kernels"}
"""Fields of a configuration that are mappings, and the flag that adds one entry."""

Texts = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def _flag(kind: Any, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def flags_of(name: str, base: Experiment, extra: Sequence[tuple[str, Any, Any]]) -> type:
    """Build the flags of a command: one for each setting, with the recipe's value as default, and additional ones.

    Args:
        name: name of the command.
        base: experiment that supplies the defaults.
        extra: (name, type, default) of the additional flags.

    Returns:
        a dataclass for ``parse``.
    """
    wanted = []
    for item in fields(Experiment):
        text = item.metadata["help"]
        if item.name in REPEATED:
            wanted.append((REPEATED[item.name], _flag(Texts, text), field(default=())))
        else:
            wanted.append((item.name, _flag(item.type, text), field(default=getattr(base, item.name))))
    return make_dataclass(name, [*wanted, *((key, kind, field(default=value)) for key, kind, value in extra)])


def _said(box: str) -> str:
    """Join the text of tyro's error box, which may be ASCII and wrapped, to one line without frame, title and help."""
    lines = (line.strip("│|+╭╮╰╯─- ") for line in box.splitlines()[1:])
    text = " ".join(line for line in lines if line)
    return re.split(r" ?(?:Argument helptext|For full helptext|Got errors)", text)[0]


def parse(kind: Any, arguments: Sequence[str], command: str) -> Any:
    """Parse flags; tyro's error box becomes one line.

    Args:
        kind: a dataclass of flags.
        arguments: words after the command.
        command: its name, for messages.

    Returns:
        an instance of ``kind``.

    Raises:
        UserError: a word that is no flag, or a value of the wrong type.
    """
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            parsed, unknown = tyro.cli(
                kind,
                args=list(arguments),
                prog=f"rflbat {command}",
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_said(captured.getvalue())) from None
    if unknown:
        known = [f"--{item.name.replace('_', '-')}" for item in fields(kind)]
        word = unknown[0].partition("=")[0]
        what = f"unknown flag {word}{nearest(word, known)}" if word.startswith("-") else f"unexpected '{word}'"
        raise UserError(f"{what}; `rflbat {command} --help` lists what is allowed")
    return parsed


def pairs_of(texts: Sequence[str], flag: str) -> dict[str, str]:
    """Split the values of a repeatable flag.

    Args:
        texts: values of the form ``name=value``.
        flag: name of the flag, for messages.

    Returns:
        value by name.

    Raises:
        UserError: a value of another form, or a repeated name.

    Example:
        >>> pairs_of(["f=1", "m=4"], "defense-arg")
        {'f': '1', 'm': '4'}
    """
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UserError(f"--{flag} {text!r} is not of the form name=value")
        if key in pairs:
            raise UserError(f"--{flag} names {key!r} twice")
        pairs[key] = value
    return pairs


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(Path(path), 2**20).decode())
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config {path}: not TOML: {error}") from None


def base_of(arguments: Sequence[str]) -> tuple[Experiment, list[str], str]:
    """Read the recipe and the file of ``--config``. The file overrides the recipe, and flags override both.

    Args:
        arguments: words after the command.

    Returns:
        the settings so far, the words without the recipe, and the recipe's name.

    Raises:
        UserError: the recipe is unknown, or the file is unreadable.
    """
    rest, recipe = list(arguments), "smoke"
    if rest and not rest[0].startswith("-"):
        recipe = rest.pop(0)
    base = lookup("recipe", RECIPES, recipe)()
    paths = [rest[at + 1] for at, word in enumerate(rest[:-1]) if word == "--config"]
    paths += [word.removeprefix("--config=") for word in rest if word.startswith("--config=")]
    for path in paths:
        base = base.changed(_read_toml(path))
    return base, rest, recipe


def experiment_of(flags: Any, base: Experiment) -> Experiment:
    """Override the settings of the recipe by those of the flags.

    Args:
        flags: result of ``parse`` for flags of ``flags_of``.
        base: settings of the recipe and of ``--config``.

    Returns:
        the experiment.

    Raises:
        UserError: a value that is not allowed.
    """
    settings = {item.name: getattr(flags, item.name) for item in fields(Experiment) if item.name not in REPEATED}
    chosen = base.changed(settings)
    single = {name: pairs_of(getattr(flags, flag), flag.replace("_", "-")) for name, flag in REPEATED.items()}
    return chosen.changed({name: {**getattr(chosen, name), **given} for name, given in single.items()})


DIRECTORY = ("directory", tyro.conf.Positional[str])
FILE = ("file", tyro.conf.Positional[str])
CONFIG = ("config", _flag(str | None, "TOML file of settings, overridden by flags"), None)
TRACK = ("track", _flag(Texts, "tracker of every round, one of `rflbat list trackers`; repeatable"), ())
QUIET = ("quiet", _flag(bool, "no progress display, no closing table"), False)
DATA_FOLDER = ("data_dir", _flag(str | None, "folder of data sets; default $RFLBAT_DATA_DIR"), None)
EVERY = ("every", _flag(float, "seconds between two reads"), 0.5)
RUN = (
    ("out", _flag(str | None, "run folder to create; default runs/DATASET-DEFENSE-SEED"), None),
    CONFIG,
    TRACK,
    QUIET,
    (
        "dry_run",
        _flag(bool, "print settings, back end, chunk and memory of a round, without running"),
        False,
    ),
)
"""Flags of ``rflbat run`` beside the settings of an experiment."""
SWEEP = (
    ("grid", _flag(Texts, "setting=value,value,...; repeatable; defense_arg.NAME for a parameter"), ()),
    ("seeds", _flag(int, "seeds of every combination"), 1),
    ("jobs", _flag(int, "processes, each on one thread and pinned to its cores or GPU when more than one"), 1),
    (
        "launcher",
        _flag(str, "local: processes of this machine; ray: tasks of the cluster of RAY_ADDRESS, or of a local Ray"),
        "local",
    ),
    (
        "gpus_per_cell",
        _flag(float | None, "GPUs of a Ray task, a fraction allowed; default 1 on cuda, else 0"),
        None,
    ),
    ("out", _flag(str | None, "folder of the sweep; required"), None),
    CONFIG,
    QUIET,
)
"""Flags of ``rflbat sweep`` beside the settings of an experiment."""
