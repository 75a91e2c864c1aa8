"""What README and docstrings tell people to type works, and what README says of the files is so."""
import ast
import re
import shlex
import sys

import pytest
from common import EVAL, PARENT, PONG, REPLAY, ROOT, SCRIPTS, SMALL, call, load
from test_copies import diff_size

README = (ROOT / "README.md").read_text()
FILES = {name: (ROOT / f"{name}.py").read_text() for name in SCRIPTS}


def code_blocks(text: str) -> list[str]:
    """Lines of fenced and indented blocks, with continued lines joined."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = ["\n".join(line[4:] for line in rest.splitlines() if line.startswith("    "))]
    lines = "\n".join(fenced + indented).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def commands(lines: list[str]) -> list[list[str]]:
    """The words of each command that begins with python or uv run; comments, prompts and && taken apart."""
    parts = [part.strip().removeprefix("$ ") for line in lines for part in line.split("&&")]
    words = [shlex.split(part, comments=True) for part in parts if re.match(r"python |uv run ", part)]
    return [line[2:] if line[0] == "uv" else line[1:] for line in words]


def run_section(script: str) -> list[str]:
    """Lines of Run in the docstring."""
    text = ast.get_docstring(ast.parse(FILES[script])).partition("\nRun:")[2]
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


TYPED = [("README", line) for line in commands(code_blocks(README))]
TYPED += [(script, line) for script in SCRIPTS for line in commands(run_section(script))]
OF_SCRIPTS = sorted({tuple(line) for _, line in TYPED if line[0].removesuffix(".py") in SCRIPTS})


def test_there_are_commands():
    assert [line for source, line in TYPED if source == "README"]
    for script in SCRIPTS:
        lines = commands(run_section(script))
        assert lines and all(line[0] == f"{script}.py" for line in lines)
        assert len(lines) == len(run_section(script))


@pytest.mark.parametrize("line", OF_SCRIPTS, ids=" ".join)
def test_command_runs(line, tmp_path, monkeypatch):
    """It is taken as it is typed, and runs with few steps. A --resume or --evaluate is given the run that a
    small one left."""
    name, *flags = line
    script = name.removesuffix(".py")
    if not {"--resume", "--evaluate"} & set(flags):
        module = load(script)
        monkeypatch.chdir(tmp_path)  # MuJoCo may write a log
        monkeypatch.setattr(sys, "argv", [name, *flags])
        module.check(*module.parse_args(module.Args))[0].close()
    if "<" in " ".join(flags) or "--resume" in flags or "--evaluate" in flags:
        call(script, *SMALL[script], cwd=tmp_path)
        flags = [re.sub(r"\S*(checkpoint|model)\.pt", lambda match: str(
            next(tmp_path.glob(f"runs/*/{match[1]}.pt"))), flag) for flag in flags]
    small = [flag for flag in SMALL[script] if flag not in ("--env-id", "Pendulum-v1")]
    if "ALE" in " ".join(flags):
        small += [*PONG[2:], *["--learning-starts", "100", "--train-frequency", "50"] * (script in REPLAY)]
    out = call(script, *flags, *small, cwd=tmp_path).out
    assert EVAL.fullmatch(out.splitlines()[-1])


def test_other_commands_name_files_that_exist():
    for _, line in TYPED:
        for word in line:
            if word.endswith((".py", ".sh")) and "*" not in word:
                assert (ROOT / word).exists(), line
        if line[0] == "-m":
            assert line[1:] == ["pytest", "tests"]


def test_install_line_is_the_one_of_ci():
    """README's command for the tests, word for word."""
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    (line,) = [line for line in code_blocks(README) if "pytest" in line]
    assert line in ci and line.startswith("pip install -r requirements.txt && ")
    assert sum("pip install" in row for row in ci) == 1


def test_files_that_are_named_exist():
    for path in re.findall(r"\]\((?!https?://|#)([^)#]+)", README):
        assert (ROOT / path).exists(), path


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
