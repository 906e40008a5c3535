"""No Python file of the project escapes the linter, the type checker or the layer contract."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from mypy.main import process_options

ROOT = Path(__file__).parents[2]
SCRIPT = "#!/usr/bin/env python"


@pytest.fixture(scope="module")
def files() -> set[Path]:
    """All of them, whatever folder they are in; not what is installed, built or cached."""
    return set(_python_files(ROOT))


def _python_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        hidden = path.name.startswith(".") and path.name != ".ci"
        if path.is_dir() and not hidden and path.name not in ("__pycache__", "build"):
            if not (path / "pyvenv.cfg").exists():
                yield from _python_files(path)
        elif path.suffix == ".py" or (path.is_file() and _is_script(path)):
            yield path


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SCRIPT)) == SCRIPT.encode()


def test_every_file_is_linted(files: set[Path]) -> None:
    for arguments in (["check", "--show-files"], ["format", "--check", "--verbose"]):
        answer = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "."],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        seen = answer.stdout + answer.stderr
        missed = {path for path in files if str(path) not in seen}
        assert not missed, f"ruff {' '.join(arguments)} does not look at them"


def test_every_file_is_typed(files: set[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sources, options = process_options([])
    assert options.disallow_untyped_defs, "not strict"
    seen = {Path(source.path).resolve() for source in sources if source.path}
    assert files <= seen, f"mypy does not check {sorted(files - seen)}"


def test_every_module_is_under_the_layer_contract(files: set[Path]) -> None:
    modules = grimp.build_graph("gc_bootstrap", cache_dir=None).modules
    package = ROOT / "gc_bootstrap"
    for path in files:
        if package in path.parents:
            parts = path.relative_to(ROOT).with_suffix("").parts
            assert ".".join(p for p in parts if p != "__init__") in modules
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (c for c in config["contracts"] if c["type"] == "layers")
    assert contract["exhaustive"], "a new room would be under no contract"
    layers = {name for row in contract["layers"] for name in row.split(" | ")}
    assert layers == {p.stem for p in package.iterdir() if _is_room(p)}


def _is_room(path: Path) -> bool:
    return (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
