"""Output of ``rflbat list`` and ``rflbat show``: every name of every registry, and the complete page of each."""

import inspect
import re

import pytest

from rflbat.attacks.registry import ATTACKS
from rflbat.cli.catalog import catalog, show
from rflbat.cli.main import main
from rflbat.clients.registry import LR_SCHEDULES
from rflbat.clients.rules.registry import LOCAL_RULES
from rflbat.data.registry import AUGMENTATIONS, DATASETS
from rflbat.defenses.registry import DEFENSES
from rflbat.errors import UserError
from rflbat.experiment.recipes import RECIPES
from rflbat.models.registry import MODELS
from rflbat.server.registry import SERVER_OPTIMIZERS
from rflbat.trackers.registry import TRACKERS
from rflbat.transforms.registry import TRANSFORMS
from rflbat_kernels.dispatch import IMPLEMENTATIONS

REGISTRIES = {
    "datasets": DATASETS,
    "models": MODELS,
    "attacks": ATTACKS,
    "defenses": DEFENSES,
    "local_rules": LOCAL_RULES,
    "lr_schedules": LR_SCHEDULES,
    "server_optimizers": SERVER_OPTIMIZERS,
    "transforms": TRANSFORMS,
    "augmentations": AUGMENTATIONS,
    "recipes": RECIPES,
    "trackers": TRACKERS,
    "kernels": IMPLEMENTATIONS,
}
FACTORIES = {**MODELS, **ATTACKS, **DEFENSES, **LOCAL_RULES, **LR_SCHEDULES, **TRANSFORMS}
EVERY = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def test_catalog_holds_the_registries() -> None:
    assert {kind: list(members) for kind, members in catalog().items()} == {
        kind: list(registry) for kind, registry in REGISTRIES.items()
    }
    assert [name for members in catalog().values() for name, line in members.items() if not line or "\n" in line] == []


@pytest.mark.parametrize("kind", [None, *REGISTRIES])
def test_list_prints_every_name_with_its_line(kind: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", *([kind] if kind else [])]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for each, members in catalog().items():
        shown = each in (kind or each)
        assert (re.search(rf"^{each} *$", out, re.MULTILINE) is not None) == shown
        for name, line in members.items():
            assert (re.search(rf"^{name}  +{re.escape(line)} *$", out, re.MULTILINE) is not None) == shown


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_show_prints_every_page(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    out, err = capsys.readouterr()
    assert (out.strip(), err) == (show(name).strip(), "")
    assert catalog()[kind][name] in out


@pytest.mark.parametrize("name", FACTORIES)
def test_page_of_a_method_holds_signature_and_docstring(name: str) -> None:
    signature, _, text = show(name).partition("\n\n")
    parameters = inspect.signature(FACTORIES[name]).parameters
    assert re.fullmatch(rf"{name}\(.*\) -> \w+", signature)
    assert [word for word in parameters if not re.search(rf"\b{word}: ", signature)] == []
    assert text.startswith(str(inspect.getdoc(FACTORIES[name])))


@pytest.mark.parametrize("name", RECIPES)
def test_page_of_a_recipe_holds_what_it_sets(name: str) -> None:
    set_ = {key: value for key, value in RECIPES[name]().to_dict().items() if value not in (None, {})}
    assert [key for key, value in set_.items() if f"\n{key} = {value}" not in show(name)] == []


@pytest.mark.parametrize("name", DATASETS)
def test_page_of_a_data_set_says_where_to_get_it(name: str) -> None:
    assert "\nFiles:\n" in show(name)


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="unknown name 'krumm'; did you mean 'krum'"):
        show("krumm")
