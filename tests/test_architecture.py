"""The shape of the program: imports point down, help is quick, nothing is unpickled."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flexavatar_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the top down; a part may import itself and every part in a lower row.
LAYERS = (
    {"cli"},
    {"training", "evaluation", "export", "viewer"},
    {"stages"},
    {"model", "heads", "render", "media", "weights"},
    {"core"},
)
ROW = {part: row for row, parts in enumerate(LAYERS) for part in parts}


def imported(module: Path) -> set[str]:
    """Dotted names of flexavatar_cli that a module imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: write the full name instead of a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "flexavatar_cli"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(module):
    own = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imported(module):
        parts = name.split(".")
        if len(parts) < 2 or parts[1] not in ROW or parts[1] == own:
            continue
        assert ROW[parts[1]] > ROW[own], f"{own} must not import {name}"


def test_every_part_has_its_place():
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name[0] not in "._"}
    assert parts <= set(ROW)


def test_no_torch_load_without_weights_only():
    for module in MODULES:
        for call in re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", module.read_text()):
            assert "weights_only=True" in call, f"{module}: {call}"


def test_no_broad_except_and_no_pickle():
    for module in MODULES:
        text = module.read_text()
        assert not re.search(r"except Exception|except:|allow_pickle=True|pickle\.loads?\(", text), module


def test_shipped_code_needs_nothing_beside_the_checkout():
    for path in [*MODULES, *(ROOT / "models").rglob("*.yaml")]:
        assert "../shared" not in path.read_text(), path


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout


def test_help_loads_nothing_heavy():
    code = "import sys; from flexavatar_cli.cli.app import run; run(['--help']); "
    code += "print('LOADED', *(n for n in ('torch', 'numpy', 'cv2', 'mediapipe', 'numba') if n in sys.modules))"
    out = run_python(code)
    assert out.rsplit("LOADED", 1)[1].split() == []
    for command in ("matte", "info", "doctor"):
        assert command in out


def test_the_console_script_is_ours():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "flexavatar"
    assert project["scripts"] == {"flexavatar": "flexavatar_cli.cli.app:main"}


def test_core_options_are_standard_library_only():
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / "core" / "options.py").read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.add(getattr(node, "module", None) or node.names[0].name)
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)
