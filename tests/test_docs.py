"""The documentation builds without a warning, with a page for every method, and its tutorials say what is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rflbat.attacks.registry import ATTACKS
from rflbat.defenses.registry import DEFENSES
from rflbat.models.registry import MODELS

ROOT = Path(__file__).parents[1]


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
