"""A script is one file that needs what it says at its top and requirements.txt installs, and nothing else."""
import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from common import EVAL, ROOT, SCRIPTS, SMALL, all_of

MODULES = {"opencv-python-headless": "cv2", "ale-py": "ale_py"}  # where the name differs from the package's
UNSEEN = {"ale_py", "tensorboard", "moviepy", "cv2"}  # imported by name or by another package only


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


def packages(lines: list[str]) -> dict[str, str]:
    """Module -> version, of lines such as name[extra]==1.2 or name>=1.2."""
    found = [re.match(r"([\w-]+)(?:\[.*?\])?[=>]=([\d.]+)", line) for line in lines]
    return {MODULES.get(match[1], match[1]): match[2] for match in found if match}


def metadata(text: str) -> dict:
    """The block of PEP 723 with which uv and pipx run a single file."""
    block = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", text)[1]
    return tomllib.loads("".join(line[2:] for line in block.splitlines(keepends=True)))


def test_imports_only_what_it_names():
    pins = packages((ROOT / "requirements.txt").read_text().splitlines())
    for script in SCRIPTS:
        text = (ROOT / f"{script}.py").read_text()
        named = metadata(text)
        needed = packages(named["dependencies"])
        assert imported(text) - sys.stdlib_module_names - set(needed) == set(), script
        assert set(needed) - imported(text) <= UNSEEN, script
        assert ("ale_py" in needed) == ("ALE/" in text), script
        for name, version in needed.items():  # the bounds allow what is pinned, of the same major version
            low, pin = ([*map(int, part.split("."))] for part in (version, pins[name]))
            assert low <= pin < [low[0] + 1], (script, name)
        assert named["requires-python"] == ">=3.11", script
        assert not {"__import__", "importlib", "exec", "eval"} & {
            node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}, script


@pytest.mark.parametrize("script", all_of(SCRIPTS))
def test_a_copy_runs_alone(script, tmp_path):
    """In an empty folder. -I: neither that folder nor PYTHONPATH is searched, so no sibling is found."""
    shutil.copy(ROOT / f"{script}.py", tmp_path)
    process = subprocess.run([sys.executable, "-I", f"{script}.py", *SMALL[script]], cwd=tmp_path, text=True,
                             capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.returncode == 0, process.stderr
    assert EVAL.fullmatch(process.stdout.splitlines()[-1])
    assert {path.name for path in tmp_path.iterdir()} == {f"{script}.py", "runs"}
