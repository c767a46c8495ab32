"""The documentation builds without a warning, with a page for every method, and the commands on its pages exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rflbat.attacks.registry import ATTACKS
from rflbat.cli.flags import RUN, SWEEP, base_of, flags_of, parse
from rflbat.cli.main import COMMANDS
from rflbat.defenses.registry import DEFENSES
from rflbat.models.registry import MODELS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs/tutorials").glob("*.md"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(out / "html")]
    done = subprocess.run([*command, "-d", str(out / "trees")], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return out / "html"


def test_every_method_has_a_page_with_its_sections(built: Path) -> None:
    for kind, names in {"defenses": DEFENSES, "attacks": ATTACKS, "models": MODELS}.items():
        for name in names:
            page = (built / "methods" / kind / f"{name}.html").read_text(encoding="utf-8")
            for part in ("Parameters", "Returns", "Example", "Source"):
                assert part in page or (name, part) in {("fedavg", "Parameters"), ("median", "Parameters")}, (
                    name,
                    part,
                )
            if kind != "models":
                assert all(part in page for part in ("Conventions", "Needs", "Fails")), name


def test_pages_link_to_pages_that_exist(built: Path) -> None:
    for path in built.rglob("*.html"):
        for href in re.findall(r'href="([^"#:?]+\.html)', path.read_text(encoding="utf-8")):
            assert (path.parent / href).exists(), (path, href)


def test_the_promises_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "docs/promises.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def commands(page: str) -> list[list[str]]:
    """Commands of a page, in a block or between backquotes, except those with a placeholder in capitals or dots."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^(?:\$| {3})[ ](?:[A-Z_]+=\S+ )?(rflbat .*)$", text, re.MULTILINE)
    lines += re.findall(r"`(?:[A-Z_]+=\S+ )?(rflbat\s[^`]*)`", text)
    typed = [shlex.split(line, comments=True)[1:] for line in lines]
    return [words for words in typed if not any(word == "..." or re.fullmatch(r"[A-Z]{2,}", word) for word in words)]


def test_flags_that_pages_name_exist() -> None:
    typed = [(page, words) for page in PAGES for words in commands(page)]
    assert len(typed) > 40
    kinds = {"run": RUN, "sweep": SWEEP}
    for page, (command, *words) in typed:
        assert command in {*COMMANDS, "--version", "--help"}, (page, command)
        if command in kinds and not (words and re.match(r"[^-]*:", words[0])):
            base, rest, _ = base_of(words)
            parse(flags_of(command, base, kinds[command]), rest, command)


def test_commands_on_pages_are_found() -> None:
    assert ["doctor"] in commands("docs/first-hour.md")
    assert ["show", "rflbat"] in commands("README.md")
    assert ["run", "--shadow", "mine:short", "--rounds", "5"] in commands("docs/tutorials/own_defense.md")
