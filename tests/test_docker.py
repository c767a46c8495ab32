"""The container files without an engine: parsed, linted, held to the rules, and their install steps executed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker/Dockerfile"
dockerfile: Any = pytest.importorskip("dockerfile", reason="the official parser of Dockerfiles has no wheel here")
yaml: Any = pytest.importorskip("yaml")


def commands() -> list[tuple[str, list[str]]]:
    return [(command.cmd.upper(), list(command.value)) for command in dockerfile.parse_file(str(FILE))]


def stages() -> dict[str, list[tuple[str, list[str]]]]:
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for name, words in commands():
        if name == "FROM":
            current = found.setdefault(words[2], [])
        elif found:
            current.append((name, words))
    return found


def test_the_linter_has_nothing_to_say() -> None:
    command = [sys.executable, "-m", "dockerfile_doctor", str(FILE), "--severity", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_goes_from_build_over_cpu_to_gpu() -> None:
    assert list(stages()) == ["build", "cpu", "gpu"]
    froms = [words for name, words in commands() if name == "FROM"]
    assert [words[0] for words in froms] == ["python:${PYTHON}", "python:${PYTHON}", "cpu"]
    [pinned] = [words[0] for name, words in commands() if name == "ARG" and words[0].startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.1[1-3]\.\d+-slim-\w+", pinned)


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_nobody_is_root(stage: str) -> None:
    assert [words for name, words in stages()[stage] if name == "USER"][-1] == ["rflbat"]


def test_it_starts_rflbat_with_its_caches_on_a_volume() -> None:
    cpu = dict(stages()["cpu"])
    assert (cpu["ENTRYPOINT"], cpu["VOLUME"]) == (["rflbat"], ["/cache", "/runs"])
    settings = dict(zip(cpu["ENV"][::2], cpu["ENV"][1::2], strict=True))
    assert settings["XDG_CACHE_HOME"] == "/cache"
    assert settings["TRITON_CACHE_DIR"].startswith("/cache/")


def test_every_version_is_pinned() -> None:
    lines = [line for line in (ROOT / "docker/constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    names = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    wanted = {"torch", "torchvision", "numpy", "scikit-learn", "tyro", "rich", "safetensors", "matplotlib", "plotly"}
    assert wanted | {"tokenizers", "cupy-cuda13x", "cuml-cu13", "triton", "jinja2"} <= names
    installs = [part for _, words in commands() for part in " ".join(words).split("&&") if "pip install" in part]
    assert len(installs) == 2
    assert all("--constraint /wheels/constraints.txt" in part for part in installs)


def test_what_is_copied_is_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, words in commands():
        if name == "COPY" and words[0] != "/wheels":
            for source in words[:-1]:
                assert (ROOT / source).exists()
                assert source in let_in


def test_compose_reserves_a_card_for_the_gpu_alone() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    assert set(services) == {"cpu", "gpu"}
    for name, service in services.items():
        assert service["build"] == {"context": "..", "dockerfile": "docker/Dockerfile", "target": name}
        assert service["volumes"][0] == "cache:/cache"
        assert service["security_opt"] == ["no-new-privileges:true"]
    [device] = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in services["cpu"]


def test_images_bear_the_version_of_the_package() -> None:
    version = re.search(r"^version = (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]  # type: ignore[index]
    for path in (ROOT / "docker/compose.yaml", ROOT / "docker/README.md"):
        tags = re.findall(r"rflbat:([\d.]+)-(?:cpu|gpu)", path.read_text())
        assert tags
        assert set(tags) == {version}


def pip_steps(stage: str) -> list[str]:
    """The pip commands of a stage, in order."""
    runs = [words[0] for name, words in stages()[stage] if name == "RUN"]
    return [part.strip() for run in runs for part in run.split("&&") if "-m pip " in part]


@pytest.mark.slow
def test_all_that_the_gpu_image_installs_is_pinned(tmp_path: Path) -> None:
    """Requirements of the stage gpu, resolved by uv, which only reads metadata where pip downloads gigabytes."""
    uv, out = Path(sysconfig.get_path("scripts")) / "uv", tmp_path / "resolved.txt"
    if not uv.exists():
        pytest.skip("uv is not here; it comes with rflbat[flower]")
    extras = ["--extra", "gpu", "--extra", "text", "--extra", "report", "--constraint", "docker/constraints.txt"]
    where = ["--python-version", "3.11", "--python-platform", "linux", "--no-annotate", "--output-file", str(out)]
    command = [str(uv), "pip", "compile", "--quiet", *extras, *where, "setup.cfg"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    chosen = {line.lower() for line in out.read_text().splitlines() if "==" in line and not line.startswith("#")}
    lines = (ROOT / "docker/constraints.txt").read_text().splitlines()
    assert len(chosen) > 80
    assert chosen - {line.lower().replace("_", "-") for line in lines} == set()


@pytest.mark.slow
def test_the_install_steps_work_in_a_fresh_environment(tmp_path: Path) -> None:
    """Some 6 GB and three minutes: what pip does for the stages build and cpu, then a run outside of the checkout."""
    source, wheels = tmp_path / "src", tmp_path / "wheels"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("engine", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    wheels.mkdir()
    shutil.copy(ROOT / "docker/constraints.txt", wheels)
    python = str(tmp_path / "venv/bin/python")
    for step in [*pip_steps("build"), *pip_steps("cpu")]:
        words = shlex.split(step.replace("${PIP_OPTIONS}", "").replace("/wheels", str(wheels)))
        subprocess.run([python, *words[1:]], cwd=source, check=True, timeout=1500)
    home = tmp_path / "runs"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(tmp_path / "venv/bin/rflbat"), "run", "--rounds", "2", "--out", "first", "--quiet"]
    subprocess.run(command, cwd=home, env=environment, check=True, timeout=300)
    assert (home / "first/summary.json").exists()
    assert (home / "first/report.html").stat().st_size > 4e6
