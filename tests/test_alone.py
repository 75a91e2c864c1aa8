"""A script is one file: copied into an empty folder it runs, on what requirements.txt installs."""
import ast
import os
import re
import shutil
import subprocess
import sys

import pytest
from common import EVAL, ROOT, SCRIPTS, SMALL

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


@pytest.mark.parametrize("script", SCRIPTS)
def test_runs_alone(script, tmp_path):
    """-I: neither the folder of the script nor PYTHONPATH is searched, so that no sibling can be imported."""
    shutil.copy(ROOT / f"{script}.py", tmp_path)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-I", f"{script}.py", *SMALL[script]], cwd=tmp_path, env=env,
                             text=True, capture_output=True)
    assert process.returncode == 0, process.stderr
    assert EVAL.fullmatch(process.stdout.splitlines()[-1])
    assert {path.name for path in tmp_path.iterdir()} == {f"{script}.py", "runs"}
