"""What README and docstrings tell people to type works, and what README says of the files is so.

    python tests/test_readme.py    writes README's lines, diffs, inline diff and times anew
"""
import ast
import dataclasses
import functools
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from common import EVAL, PARENT, PONG, REPLAY, ROOT, SCRIPTS, SMALL, as_it_was, call, load
from test_copies import code
from test_copies import diff_size as size

sys.path.insert(0, str(ROOT / "benchmark"))
from records import read  # noqa: E402

README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "benchmark" / "README.md").read_text()
diff_size = functools.cache(size)  # takes a second
FILES = {name: (ROOT / f"{name}.py").read_text() for name in SCRIPTS}


def code_blocks(text: str) -> list[str]:
    """Lines of fenced and indented blocks, with continued lines joined."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = ["\n".join(line[4:] for line in rest.splitlines() if line.startswith("    "))]
    lines = "\n".join(fenced + indented).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def inline(text: str) -> list[str]:
    """Commands between single backticks, and what xargs would run."""
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found = re.findall(r"`(?:seq \d+ \| xargs .*?)?((?:python|uv run) [^`]*)`", rest)
    return [line.replace("--seed %", "--seed 1") for line in found]


def commands(lines: list[str]) -> list[list[str]]:
    """The words of each command that begins with python or uv run; comments, prompts and && taken apart."""
    lines = [line.replace("torchrun --nproc-per-node 2 ", "python ") for line in lines]
    parts = [part.strip().removeprefix("$ ") for line in lines for part in line.split("&&")]
    words = [shlex.split(part, comments=True) for part in parts if re.match(r"python |uv run ", part)]
    return [line[2:] if line[0] == "uv" else line[1:] for line in words]


def run_section(script: str) -> list[str]:
    """Lines of Run in the docstring."""
    text = ast.get_docstring(ast.parse(FILES[script])).partition("\nRun:")[2]
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


LINES = [line for page in (README, RESULTS) for line in code_blocks(page) + inline(page)]
TYPED = [("README", line) for line in commands(LINES)]
TYPED += [(script, line) for script in SCRIPTS for line in commands(run_section(script))]
OF_SCRIPTS = sorted({tuple(line) for _, line in TYPED if line[0].removesuffix(".py") in SCRIPTS})


def test_there_are_commands():
    typed = {" ".join(line) for source, line in TYPED if source == "README"}
    assert {"ppo.py", "-m pytest tests", "ppo.py --seed 1", "benchmark/plot.py"} <= typed
    for script in SCRIPTS:
        lines = commands(run_section(script))
        assert lines and all(line[0] == f"{script}.py" for line in lines)
        assert len(lines) == len(run_section(script))


def parsed(line) -> object:
    """Args of a command, as its script would parse it."""
    return tyro.cli(load(line[0].removesuffix(".py")).Args, args=list(line[1:]))


def test_commands_are_taken_as_they_are_typed(tmp_path, monkeypatch):
    """Every flag exists, and the script refuses nothing."""
    monkeypatch.chdir(tmp_path)  # MuJoCo may write a log
    for line in OF_SCRIPTS:
        args = parsed(line)
        if not args.resume and not args.evaluate:
            module = load(line[0].removesuffix(".py"))
            with as_it_was(tmp_path):
                envs, _ = module.set_up(args)
                module.check(args, envs)
                envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("line", OF_SCRIPTS, ids=" ".join)
def test_command_runs(line, tmp_path):
    """It runs with few steps. A --resume or --evaluate is given the run that a small one left."""
    name, *flags = line
    script = name.removesuffix(".py")
    flags = [str(ROOT / flag) if flag.startswith("benchmark/") else flag for flag in flags]
    if "--resume" in flags or "--evaluate" in flags:
        call(script, *SMALL[script], cwd=tmp_path)
        flags = [re.sub(r"\S*(checkpoint|model)\.pt", lambda match: str(
            next(tmp_path.glob(f"runs/*/{match[1]}.pt"))), flag) for flag in flags]
    small = [flag for flag in SMALL[script] if flag not in ("--env-id", "Pendulum-v1")]
    if "--resume" in flags:
        small += ["--total-timesteps", "400"]
    if "ALE" in " ".join(flags):
        small += [*PONG[2:], *["--learning-starts", "100", "--train-frequency", "50"] * (script in REPLAY)]
    out = call(script, *flags, *small, cwd=tmp_path).out
    assert EVAL.fullmatch(out.splitlines()[-1])


@pytest.mark.slow
def test_python_block_runs(tmp_path):
    """The lines for one's own code, as they stand."""
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    call("dqn", *SMALL["dqn"], cwd=tmp_path)
    next(tmp_path.glob("runs/*/model.pt")).rename(tmp_path / "model.pt")
    names = {}
    with as_it_was(tmp_path):
        exec(block, names)
    assert isinstance(names["mean"], float) and names["adv"].shape == names["ret"].shape == (128, 8)


def test_other_commands_name_files_that_exist():
    for _, line in TYPED:
        for word in line:
            if word.endswith((".py", ".sh")) and "*" not in word:
                assert (ROOT / word).exists(), line
        if line[0] == "-m":
            assert line[1] == "pytest" and (ROOT / line[2]).exists(), line


@pytest.mark.parametrize("env_id, least", [("CartPole-v1", 475), ("Pendulum-v1", -200)])
def test_trained_models(env_id, least, tmp_path):
    """Small enough to keep, and as good as the page says."""
    path = ROOT / "benchmark" / "models" / f"{env_id}.pt"
    assert path.stat().st_size < 50_000
    out = call("ppo", "--evaluate", path, cwd=tmp_path).out
    assert float(EVAL.search(out)[1]) >= least


def test_install_line_is_the_one_of_ci():
    """README's command for the tests, word for word; and the page has room for nothing more."""
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    (line,) = [line for line in code_blocks(README) if "pytest" in line]
    assert line in ci and line == "pip install -r requirements.txt && python -m pytest tests"
    assert "pip install -r requirements.txt && python ppo.py" in code_blocks(README)
    assert next(row for row in ci if "pip install" in row) == line
    assert len(README.splitlines()) <= 170


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(text: str, folder: Path) -> list[str]:
    """Links and images of a page in this folder that lead to no file, or to no heading of one."""
    found = []
    for target in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("http"):
            continue
        if path and not (folder / path).exists():
            found.append(path)
        elif anchor and anchor not in anchors((folder / path).read_text() if path else text):
            found.append(f"{path}#{anchor}")
    return found


def test_links():
    for folder in ROOT, ROOT / "benchmark", ROOT / "bugs", ROOT / "tests", ROOT / "tests" / "cases":
        assert broken_links((folder / "README.md").read_text(), folder) == []
    wrong = "[a](none.md), [b](README.md#none), [c](#none), <img src=\"no.png\"> [d](#a-b)\n## A b\n"
    assert broken_links(wrong, ROOT) == ["none.md", "README.md#none", "#none", "no.png"]


def test_pages_name_no_place_of_one_machine():
    for text in (README, RESULTS):
        assert not re.search(r"(?<![\w.])/(?:home|work|tmp|root|opt)/", text)


# ---- the diff of Double DQN, inline

def git_diff(parent: str, child: str) -> list[str]:
    """Lines below the docstrings that `git diff --no-index -W` shows: whole functions, without the blank
    lines and the next function's first line around them."""
    command = f"git diff --no-index -W --no-color --no-ext-diff {parent}.py {child}.py".split()
    out = subprocess.run(command, cwd=ROOT, text=True, capture_output=True).stdout
    hunks = re.split(r"^@@ -(\d+).*\n", out, flags=re.M)[1:]  # first line, text, first line, text...
    lines, end = [], FILES[parent].splitlines().index("import copy")
    for first, text in zip(hunks[::2], hunks[1::2], strict=True):
        if int(first) > end:
            rows = [row.rstrip() for row in text.splitlines()]
            changed = [i for i, row in enumerate(rows) if row[:1] in ("+", "-")]
            after = rows.index("", changed[-1]) if "" in rows[changed[-1]:] else len(rows)
            lines += rows[changed[0]:after]
    return lines


def inline_diff(text: str) -> list[str]:
    (block,) = re.findall(r"^```diff\n(.*?)^```", text, re.M | re.S)
    return [line.rstrip() for line in block.splitlines()]


def test_inline_diff_is_the_real_one():
    """It is what git shows, and it has all code lines in which the scripts differ."""
    shown = inline_diff(README)
    assert shown == git_diff("dqn", "double_dqn")
    parent, child = code(FILES["dqn"]), code(FILES["double_dqn"])
    for sign, rows, others in ("-", parent, child), ("+", child, parent):
        changed = {row for row in rows if row not in others}
        lines = {line[1:].partition("  #")[0] for line in shown if line.startswith(sign)}
        assert changed and changed <= lines


# ---- the table of scripts

def tables(text: str) -> list[list[dict[str, str]]]:
    """Rows of each Markdown table, as {lower-case heading: cell}."""
    found = []
    for block in re.findall(r"(?:^\|.*\|[ ]*\n)+", text, re.M):
        lines = [line.strip().strip("|").split("|") for line in block.splitlines()]
        head, _, *rows = [[cell.strip() for cell in line] for line in lines]
        found.append([dict(zip([cell.lower() for cell in head], row, strict=True)) for row in rows])
    return found


def names(cell: str) -> list[str]:
    """Scripts that a cell names, with or without .py and links."""
    return [name for name in re.findall(r"\w+", re.sub(r"\(.*?\)", "", cell)) if name in FILES]


def table_faults(text: str) -> list[str]:
    """What the table of scripts gets wrong: columns script, parent, diff (+a -b, or one sum) and lines."""
    found = []
    for rows in tables(text):
        if not rows or not {"script", "parent", "lines"} <= set(rows[0]):
            continue
        listed = []
        for row in rows:
            name = next(iter(names(row["script"])), None)
            if not name:
                found.append(f"no script: {row['script']}")
                continue
            listed.append(name)
            parent = PARENT.get(name)
            if names(row["parent"]) != ([parent] if parent else []):
                found.append(f"{name}: parent {row['parent']}")
            if row["lines"] != str(len(FILES[name].splitlines())):
                found.append(f"{name}: lines {row['lines']}")
            numbers = [int(number) for number in re.findall(r"\d+", row.get("diff", ""))]
            if sum(numbers) != (diff_size(FILES[parent], FILES[name]) if parent else 0):
                found.append(f"{name}: diff {row.get('diff')}")
        if sorted(listed) != sorted(FILES):
            found.append(f"rows for {listed}")
    return found


def test_table_of_scripts():
    assert table_faults(README) == []


def test_table_checker_catches():
    text = "\n| Script | Parent | Diff | Lines |\n|---|---|---|---|\n"
    for name in SCRIPTS:
        parent, lines = PARENT.get(name), len(FILES[name].splitlines())
        diff = diff_size(FILES[parent], FILES[name]) if parent else "-"
        text += f"| [{name}.py]({name}.py) | {parent or '-'} | {diff} | {lines} |\n"
    lines, last = len(FILES["dqn"].splitlines()), text.splitlines()[-1] + "\n"
    assert table_faults(text) == []
    assert table_faults(text.replace(f"| {lines} |", f"| {lines + 1} |"))
    assert table_faults(text.replace("| - | - |", "| dqn | - |"))
    assert table_faults(text.replace("| - | - |", "| - | +3 -2 |"))
    assert table_faults(text + last) and table_faults(text.removesuffix(last) + "| none | - | - | 1 |\n")


# ---- the times of the recipes

def recipe(words: list[str]) -> tuple:
    """What makes a run take as long as it does: its script and all its arguments but these."""
    args = dataclasses.asdict(parsed(words))
    skipped = {"seed", "eval_episodes", "eval_epsilon", "checkpoint_frequency"}
    return words[0], tuple(sorted((name, value) for name, value in args.items() if name not in skipped))


def wall_time(words: list[str]) -> str:
    """The median of the stored runs of this recipe, or "not timed"."""
    rows = [row for path in sorted((ROOT / "benchmark" / "results").glob("*/runs.csv")) for row in read(path)]
    seconds = [float(row["wall seconds"]) for row in rows if row["script"] == words[0].removesuffix(".py")
               and row["wall seconds"] and recipe(row["command"].split()[1:]) == recipe(words)]
    return f"{statistics.median(seconds) / 60:.0f} min" if seconds else "not timed"


TIME = re.compile(r"^(python .*?  # .*: )(\d+ min|not timed)$", re.M)


def test_times_of_recipes():
    found = TIME.findall(README)
    assert len(found) > 2
    for line, time in found:
        assert time == wall_time(shlex.split(line, comments=True)[1:]), line


# ---- python tests/test_readme.py

def rewritten(text: str) -> str:
    """README with the lines, diffs, inline diff and times of today's files."""
    for name, source in FILES.items():
        parent = PARENT.get(name)
        diff = ""
        if parent:
            difference = diff_size(FILES[parent], source)
            more = len(code(source)) - len(code(FILES[parent]))
            diff = f"+{(difference + more) // 2} -{(difference - more) // 2}"
        cells = f" {diff} | {len(source.splitlines())} |".replace("  ", " ")
        row = rf"^(\| \[{name}\.py\].*?\|.*?\|.*?\|)[^|]*\|[^|]*\|"
        text = re.sub(row, rf"\g<1>{cells}", text, flags=re.M)
    shown = "\n".join(git_diff("dqn", "double_dqn"))
    text = re.sub(r"^```diff\n.*?^```", lambda _: f"```diff\n{shown}\n```", text, flags=re.M | re.S)
    return TIME.sub(lambda match: match[1] + wall_time(shlex.split(match[1], comments=True)[1:]), text)


def test_rewriting_changes_nothing():
    assert rewritten(README) == README
    wrong = README.replace("min\n", "not timed\n").replace("| dqn.py | +", "| dqn.py | +1")
    assert wrong != README and rewritten(re.sub(r"(?<=: )\d+ not timed", "not timed", wrong)) == README


if __name__ == "__main__":
    (ROOT / "README.md").write_text(rewritten(README))
