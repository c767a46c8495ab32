"""The rules of the house, read off the syntax trees, so that words in a docstring do not count."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ENGINE, KERNELS = ROOT / "engine/rflbat", ROOT / "kernels/rflbat_kernels"
COMMAND = {ENGINE / "cli/main.py", ENGINE / "__main__.py"}
OBJECTS = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}
WAITS = {"item", "cpu", "numpy", "tolist", "nonzero"}
NAMELESS = {"utils", "helpers", "common", "misc"}
TOP = (
    *("engine", "kernels", "benchmarks", "tests", "docker", "docs", ".ci", "setup.cfg", "pyproject.toml", "Makefile"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "MANIFEST.in", ".gitignore", ".dockerignore"),
)
MACHINE = re.compile(r"(?<![\w.~$})>/-])/(?:work|root|tmp|home|Users)(?![\w-])")


def files() -> list[Path]:
    """Every file of the project that is no cache; the top level is fixed."""
    found = [path for name in TOP for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])]
    generated = {"__pycache__", "_build", "methods"}
    return [path for path in found if path.is_file() and not generated & set(path.parts)]


def python(*folders: Path) -> list[Path]:
    return [path for path in files() if path.suffix == ".py" and any(folder in path.parents for folder in folders)]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(module: ast.Module) -> set[str]:
    """Top-level names of all imports, also of those inside functions."""
    found = {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "." for node in ast.walk(module) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in found}


def calls(module: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call by its written name: "print", "sys.exit", ".item" for a method of an expression."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, node
            elif isinstance(node.func, ast.Attribute):
                owner = node.func.value
                yield f"{owner.id if isinstance(owner, ast.Name) else ''}.{node.func.attr}", node


def untrusted(module: ast.Module) -> set[str]:
    """Calls that run or unpack code from data."""
    found = imports(module) & OBJECTS
    for name, call in calls(module):
        keywords = {word.arg: word.value for word in call.keywords}
        if name in {"eval", "exec", "builtins.eval", "builtins.exec", "__import__"}:
            found.add(name)
        if name == "torch.load" and getattr(keywords.get("weights_only"), "value", None) is not True:
            found.add("torch.load")
        if "allow_pickle" in keywords and getattr(keywords["allow_pickle"], "value", None) is not False:
            found.add("allow_pickle")
    return found


def noise(module: ast.Module) -> set[str]:
    """Calls that print or end the process."""
    said = {name for name, _ in calls(module)} & {"print", "exit", "quit", "sys.exit", "os._exit", "SystemExit"}
    raised = [node.exc for node in ast.walk(module) if isinstance(node, ast.Raise)]
    return said | ({error.id for error in raised if isinstance(error, ast.Name)} & {"SystemExit"})


def waits(module: ast.Module) -> set[str]:
    """Attributes that wait for the device, even if they are not called immediately."""
    return {node.attr for node in ast.walk(module) if isinstance(node, ast.Attribute)} & WAITS


def long_functions(module: ast.Module) -> set[str]:
    """Functions above 60 lines, docstring not counted: the house wants it long."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            text = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) is not None else 0
            if (node.end_lineno or 0) - node.lineno + 1 - text > 60:
                found.add(node.name)
    return found


def offenders(rule: Callable[[ast.Module], set[str]], paths: list[Path]) -> dict[str, set[str]]:
    assert len(paths) > 2
    return {str(path.relative_to(ROOT)): found for path in paths if (found := rule(tree(path)))}


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        (untrusted, "import pickle", {"pickle"}),
        (untrusted, "def f():\n    from marshal import loads", {"marshal"}),
        (untrusted, "import shelve as s; eval('1'); exec('')", {"shelve", "eval", "exec"}),
        (untrusted, "torch.load('x'); torch.load('x', weights_only=False)", {"torch.load"}),
        (untrusted, "numpy.load('x', allow_pickle=True)", {"allow_pickle"}),
        (untrusted, "'''eval(x)'''\nmodel.eval(); torch.load('x', weights_only=True); json.load(x)", set()),
        (noise, "print(1); sys.exit(2)", {"print", "sys.exit"}),
        (noise, "raise SystemExit", {"SystemExit"}),
        (noise, "console.print(1); '''print(2)'''", set()),
        (waits, "x.sum().item(); y = x.nonzero; torch.nonzero(x)", {"item", "nonzero"}),
        (waits, "def f():\n    '''x.tolist()'''\n    return cpu(numpy)", set()),
        (imports, "import tyro.conf\ndef f():\n    from rflbat.errors import UserError", {"tyro", "rflbat"}),
        (long_functions, "def f():\n    '''" + "\n" * 99 + "'''\n" + "    x\n" * 58, set()),
        (long_functions, "def f():\n    '''one'''\n" + "    x\n" * 60, {"f"}),
    ],
)
def test_rules_see_what_they_look_for(rule: Callable[[ast.Module], Any], text: str, found: set[str]) -> None:
    assert rule(ast.parse(text)) == found


def test_nothing_runs_code_from_data() -> None:
    assert offenders(untrusted, python(ENGINE, KERNELS, ROOT / "benchmarks")) == {}


def test_library_code_neither_prints_nor_exits() -> None:
    assert offenders(noise, [path for path in python(ENGINE, KERNELS) if path not in COMMAND]) == {}


def test_kernels_know_nothing_of_the_engine() -> None:
    assert offenders(lambda module: imports(module) & {"rflbat", "engine"}, python(KERNELS)) == {}


def own_imports(module: ast.Module) -> set[tuple[str, ...]]:
    """Modules of the engine that are imported, as parts of their names below ``rflbat``."""
    named = {node.module or "" for node in ast.walk(module) if isinstance(node, ast.ImportFrom)}
    named |= {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    return {tuple(name.split(".")[1:]) for name in named if name.startswith("rflbat.")}


GROUND = {"errors", "randomness", "parameters", "transfer", "registry", "arguments", "ranks"}
KINDS = {"data", "models", "attacks", "defenses", "clients", "server", "transforms"}
MAY_IMPORT = {
    "storage": {"errors"},
    "data": {"storage"} | GROUND,
    "models": {"errors", "parameters", "randomness", "registry", "arguments"},
    "attacks": {"data", "errors", "randomness", "registry", "arguments"},
    "server": {"errors", "registry", "arguments"},
    "transforms": {"defenses", "errors", "randomness", "registry", "arguments"},
    "defenses": {"errors", "randomness", "registry", "arguments", "parameters"},
    "clients": {"models", "attacks"} | GROUND,
    "experiment": KINDS | GROUND,
    "round": {"experiment", "storage"} | KINDS | GROUND,
    "simulation": {"round", "storage", "experiment"} | KINDS | GROUND,
    "sweep": {"simulation", "round", "storage", "experiment", "clients"} | GROUND,
    "report": {"storage", "errors"},
    "trackers": {"simulation"} | GROUND,
    "aggregation": {"defenses", "transforms"} | GROUND,
    "interop": {"aggregation", "defenses"} | GROUND,
    "testing": {"aggregation", "attacks", "clients", "defenses", "models", "storage"} | GROUND,
    "cli": {"sweep", "simulation", "round", "storage", "report", "trackers", "experiment"} | KINDS | GROUND,
}
"""Packages that a package of the engine may import beside itself. The ground imports the ground alone."""


def test_imports_point_one_way() -> None:
    against = {}
    for path in python(ENGINE):
        room = path.relative_to(ENGINE).with_suffix("").parts[0]
        if room in {"__init__", "__main__"}:
            continue
        allowed = GROUND if room in GROUND else MAY_IMPORT[room]
        if found := {".".join(name) for name in own_imports(tree(path)) if name[0] not in allowed | {room}}:
            against[str(path.relative_to(ENGINE))] = found
    assert against == {}


def test_few_modules_lie_at_the_root() -> None:
    assert len([path for path in ENGINE.glob("*.py") if not path.name.startswith("__")]) <= 8


def test_only_the_flags_know_tyro() -> None:
    knowing = offenders(lambda module: imports(module) & {"tyro"}, python(ENGINE, KERNELS, ROOT / "benchmarks"))
    assert knowing == {"engine/rflbat/cli/flags.py": {"tyro"}}


DECLARED = {"kernels/rflbat_kernels/hdbscan/sklearn.py": {"cpu", "numpy", "tolist"}}
"""The kernel that clusters on the host, and says so."""


def test_defenses_attacks_and_kernels_wait_for_nothing() -> None:
    paths = [path for path in python(ENGINE / "defenses", ENGINE / "attacks", KERNELS) if path.name != "naive.py"]
    assert offenders(waits, paths) == DECLARED


def test_things_are_named() -> None:
    assert [str(path) for path in files() if NAMELESS & {*path.relative_to(ROOT).parts[:-1], path.stem}] == []


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in python(ROOT)}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_functions_are_short() -> None:
    assert offenders(long_functions, python(ENGINE, KERNELS, ROOT / "benchmarks")) == {}


BANNED = re.compile(
    r"\b(?:nobody|everybody|somebody|whoever|whom|so many|is told|told of)\b"
    r"|(?:\A|[.:] |\n\s*)(?:What|Give|Say|Tell)s? (?!\S+\?)"
)
"""Words and openings that the project's prose does without: persons for tensors, riddles, "What ..." for a noun."""


def prose(path: Path) -> Iterator[str]:
    """Docstrings, attribute docstrings and comments of a Python file."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


@pytest.mark.parametrize(
    ("text", "banned"),
    [
        ("What a run shows.", True),
        ("Return it. Give the rest.", True),
        ("Drawn for everybody.", True),
        ("Return what a run shows.", False),
        ("Compute the sum. The rest is given.", False),
    ],
)
def test_banned_words_are_seen(text: str, banned: bool) -> None:
    assert bool(BANNED.search(text)) == banned


def test_prose_is_plain() -> None:
    """Docstrings and comments of the code, and the Markdown pages."""
    found = {}
    for path in python(ENGINE, KERNELS, ROOT / "benchmarks"):
        if lines := [text.strip()[:100] for text in prose(path) if BANNED.search(text)]:
            found[str(path.relative_to(ROOT))] = lines
    for path in files():
        if path.suffix == ".md" and (lines := [hit[0] for hit in BANNED.finditer(path.read_text(encoding="utf-8"))]):
            found[str(path.relative_to(ROOT))] = lines
    assert found == {}


def test_code_in_docstrings_has_double_backticks() -> None:
    """Sphinx renders single ones as italics; the linter checks the rest of the dialect."""
    single = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
    docstrings = {
        str(path.relative_to(ROOT)): [
            node.value.value
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ]
        for path in python(ENGINE, KERNELS)
    }
    found = {name: single.findall("\n".join(texts)) for name, texts in docstrings.items()}
    assert {name: hits for name, hits in found.items() if hits} == {}


def machine_paths(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if MACHINE.search(line)]


def test_machine_paths_are_seen() -> None:
    bad = [f"cd {folder}" for folder in ("/" + "work", "/" + "root/x", "'/" + "tmp'", "=/" + "home/me")]
    good = ["engine/work", "~/work", "$X/tmp", "https://host.org/work", "a / work", "tmp/root"]
    assert machine_paths("\n".join([*bad, *good])) == bad


def test_no_file_names_a_path_of_a_machine() -> None:
    found = {}
    for path in files():
        try:
            lines = machine_paths(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue  # no text
        if lines:
            found[str(path.relative_to(ROOT))] = lines
    assert found == {}
