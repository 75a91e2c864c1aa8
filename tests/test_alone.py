"""A script is one file that needs what requirements.txt installs; test_smoke runs a copy of each."""
import ast
import re
import sys

import pytest
from common import ROOT, SCRIPTS

MODULES = {"opencv-python-headless": "cv2", "ale-py": "ale_py"}  # where the name differs from the package's


def imported(text: str) -> set[str]:
    """Top-level modules of all import statements, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("script", SCRIPTS)
def test_imports_only_what_requirements_name(script):
    lines = (ROOT / "requirements.txt").read_text().partition("# only for the tests")[0]
    packages = re.findall(r"^([\w-]+)", lines, re.M)
    allowed = sys.stdlib_module_names | {MODULES.get(package, package) for package in packages}
    text = (ROOT / f"{script}.py").read_text()
    assert imported(text) - allowed == set()
    assert not {"__import__", "importlib", "exec", "eval"} & {
        node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
