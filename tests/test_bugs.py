"""bugs/: each patch fits its script, and the test that its README names fails with it and not without."""
import csv
import os
import re
import shutil
import subprocess
import sys
from statistics import fmean, stdev

import faults
import pytest
from common import ROOT

PAGE = (ROOT / "bugs" / "README.md").read_text()
ROWS = re.findall(r"^\| \[([\w-]+)\]\(\1\.patch\) \|.*\| `(test_\w+\.py::test_\w+)` \|$", PAGE, re.M)


def copy(folder) -> None:
    """What the tests need, in a folder of its own."""
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, folder)
    for name in "tests", "bugs":
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def outcome(folder, test: str) -> int:
    """Exit status of pytest: 0 passed, 1 failed. A slow test runs as a slow one does."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-x", f"tests/{test}"]
    env = os.environ | {"PYTHONPATH": ""}
    status = subprocess.run(command, cwd=folder, env=env, capture_output=True).returncode
    if status == 5:  # no test ran: all of them are slow
        status = subprocess.run([*command, "--slow"], cwd=folder, env=env, capture_output=True).returncode
    return status


def test_every_patch_is_in_the_table():
    assert sorted(name for name, _ in ROWS) == sorted(path.stem for path in (ROOT / "bugs").glob("*.patch"))
    assert len(ROWS) >= 16
    for script, old, *_ in faults.FAULTS:
        assert (ROOT / f"{script}.py").read_text().count(old) == 1, (script, old)
    count = len(faults.FAULTS)
    assert f"caught {count} of {count}" in (ROOT / "tests" / "README.md").read_text()


def test_the_curves_table_is_what_is_stored():
    """Five seeds of each side: mean and standard deviation of training return and evaluation."""
    with open(ROOT / "bugs" / "curves.csv", newline="") as file:
        stored = list(csv.DictReader(file))
    (text,) = re.findall(r"^COMMANDS = (\{.*?\})$", (ROOT / "bugs" / "curves.py").read_text(), re.M | re.S)
    scripts = dict(re.findall(r'"([\w-]+)": (?:"(\w+)|\w+)', text))
    shown = re.findall(r"^\| ([\w-]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$",
                       PAGE.partition("<!-- curves -->")[2], re.M)
    assert [row[0] for row in shown[2:]] == [name for name, _ in ROWS] == list(scripts)
    harm = []
    for name, *cells in shown[2:]:
        (command,) = {row["command"] for row in stored if row["patch"] == name}
        assert command.startswith(scripts[name])
        expected = []
        for column in "return", "evaluation":
            for patch in "", name:
                seeds = {}
                for row in stored:
                    if (row["patch"], row["command"]) == (patch, command):
                        seeds.setdefault(row["seed"], []).append(float(row[column]))
                means = [fmean(values) for values in seeds.values()]
                assert len(means) == 5
                expected.append(f"{fmean(means):,.1f} ± {stdev(means):,.1f}")
        assert cells == expected, name
        right, wrong = (tuple(map(float, cell.replace(",", "").split(" ± "))) for cell in cells[:2])
        harm += [name] * (right[0] - wrong[0] > right[1] + wrong[1])
    assert harm == re.findall(r"\w+(?:-\w+)+", re.search(r"clear harm: (.*?)\. Each", PAGE, re.S)[1])
    assert ("Zero One Two Three Four Five Six".split()[len(harm)] + " mistakes do clear harm") in PAGE


@pytest.mark.parametrize("name", [name for name, _ in ROWS])
def test_the_patch_fits(name, tmp_path):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    subprocess.run(["git", "apply", ROOT / "bugs" / f"{name}.patch"], cwd=tmp_path, check=True)
    assert sum(path.read_text() != (tmp_path / path.name).read_text() for path in ROOT.glob("*.py")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("test", sorted({test for _, test in ROWS}))
def test_named_tests_pass_without_a_patch(test, tmp_path):
    copy(tmp_path)
    assert outcome(tmp_path, test) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name, test", ROWS, ids=[name for name, _ in ROWS])
def test_the_patch_is_caught(name, test, tmp_path):
    copy(tmp_path)
    subprocess.run(["git", "apply", f"bugs/{name}.patch"], cwd=tmp_path, check=True)
    assert outcome(tmp_path, test) == 1
