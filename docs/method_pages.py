"""Generate a page for each defense, attack and model from the docstring that ``rflbat show NAME`` prints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rflbat.attacks.registry import ATTACKS
from rflbat.cli.catalog import catalog
from rflbat.defenses.registry import DEFENSES
from rflbat.models.registry import MODELS

KINDS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "defenses": DEFENSES,
    "attacks": ATTACKS,
    "models": MODELS,
}


def write_pages(folder: Path) -> None:
    """Write the pages and their index, and delete the pages of removed rows.

    Args:
        folder: target folder; all of its content is generated.
    """
    pages = {}
    for kind, rows in KINDS.items():
        names = catalog()[kind]
        table = "".join(f"| [{name}]({kind}/{name}.md) | {line} |\n" for name, line in names.items())
        listed = "\n".join(f"{kind}/{name}" for name in names)
        tree = f"```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
        pages[folder / f"{kind}.md"] = f"# {kind.capitalize()}\n\n| | |\n|---|---|\n{table}\n{tree}"
        for name, make in rows.items():
            directive = f".. autofunction:: {make.__module__}.{make.__qualname__}"
            pages[folder / kind / f"{name}.md"] = f"# {name}\n\n```{{eval-rst}}\n{directive}\n```\n"
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*.md"):
        if path not in pages and path.parent.name != "kernels":
            path.unlink()


def write_kernel_pages(folder: Path, kernels: Path) -> list[str]:
    """Copy the README of each kernel to a page.

    Args:
        folder: target folder.
        kernels: folder of the package ``rflbat_kernels``.

    Returns:
        names of the kernels.
    """
    names = sorted(path.parent.name for path in kernels.glob("*/README.md"))
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        text = (kernels / name / "README.md").read_text(encoding="utf-8")
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return names
