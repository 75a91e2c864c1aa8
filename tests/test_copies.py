"""The house rule: same name means same text, a mark says what the paper changes. Length, order, purity."""
import ast
import difflib
import io
import re
import tokenize

import pytest
from common import BUDGET, CAP, PARENT, ROOT, SCRIPTS, VALUE, load

TEXT = {name: (ROOT / f"{name}.py").read_text() for name in SCRIPTS}
MARK = re.compile(r"\s*# changed from (\w+)\.py: \S.*")
INSIDE = "Args", "check", "train"  # a mark before each changed hunk; all other blocks: one for the whole
PLUMBING = "NoInfo", "make_envs", "seed_all", "set_up", "evaluate", "due", "Run", "load"
BORDER = ("# The rest is the same in all ten scripts:"
          " environments, evaluation, films, logs, checkpoints, arguments.")
PURE = ("discounted_returns", "gae", "td_loss", "reinforce_loss", "vpg_loss", "value_loss", "a2c_loss",
        "ppo_loss", "squash", "soft_target", "critic_loss", "policy_loss", "temperature_loss")
ALLOWED = {"torch", "F", "math", "nn", "Batch", "range", "len", "reversed", "zip", "min", "max", "tuple",
           "dict", "float", "bool", "int", "str", *PURE}
IMPURE = re.compile(r"rand|normal|bernoulli|multinomial|r?sample|backward|step$|item$|device|manual_seed")
ORDER = ("Args", "Batch", "Episode", "Rollout", "QNetwork", "Policy", "Critic", "ReplayBuffer", *PURE,
         "polyak_update", "act", "to_env", "collect", "train", "check", *PLUMBING)


# ---- the checker, on texts

def blocks(text: str) -> dict[str, tuple[int, int]]:
    """First and last line (from 0, exclusive) of each top-level class and function, decorators included."""
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return {node.name: (min([node, *node.decorator_list], key=lambda part: part.lineno).lineno - 1,
                        node.end_lineno) for node in nodes}


def hunks(old: list[str], new: list[str]) -> list[range]:
    """Changed places of `new`, as its line numbers; changes with at most one equal line between are one."""
    found = []
    for kind, _, _, start, stop in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        if found and start - found[-1].stop <= 1:
            start = found.pop().start
        found.append(range(start, stop))
    return found


def places(hunk: range, new: list[str]) -> set[int]:
    """Line numbers at which the hunk can be said to begin: added lines may slide over equal ones."""
    start, stop, found = hunk.start, hunk.stop, {hunk.start}
    while stop > start > 0 and new[start - 1] == new[stop - 1]:
        start, stop = start - 1, stop - 1
        found.add(start)
    start, stop = hunk.start, hunk.stop
    while start < stop < len(new) and new[start] == new[stop]:
        start, stop = start + 1, stop + 1
        found.add(start)
    return found


def faults(child: str, parent: str, parent_name: str, root: bool = False) -> list[str]:
    """What in `child` breaks the rule, given the text of its parent; no line: it keeps the rule.

    A script that begins a family of its own (root) has its own Args, check and train."""
    found, used = [], set()  # used: lines of marks that are accounted for
    rows, parent_rows = child.splitlines(), parent.splitlines()
    theirs = blocks(parent)
    marks = {i for i, row in enumerate(rows) if "# changed from" in row}
    for i in sorted(marks):
        match = MARK.fullmatch(rows[i])
        if not match or match[1] != parent_name:
            found.append(f"line {i + 1}: not of the form '# changed from {parent_name}.py: <reason>'")
    for name, (start, stop) in blocks(child).items():
        if name not in theirs or root and name in INSIDE:
            continue
        old = [row for row in parent_rows[slice(*theirs[name])] if "# changed from" not in row]
        if name not in INSIDE:
            marked = start - 1 in marks
            used |= {start - 1} & marks
            if rows[start:stop] != old and not marked:
                found.append(f"{name}: differs from {parent_name}.py's without a mark")
            if rows[start:stop] == old and marked:
                found.append(f"{name}: equals {parent_name}.py's, its mark is stale")
            continue
        new, at, last = [], {}, -2  # at: the line of `new` that follows a mark -> the mark's line
        for i in range(start, stop):
            if i in marks:
                at[len(new)] = i
                used.add(i)
                if last == i - 1:
                    found.append(f"line {i + 1}: a mark on a mark")
                last = i
            else:
                new.append(rows[i])
        for hunk in hunks(old, new):
            before = [place for place in places(hunk, new) if place in at]
            if not before:
                found.append(f"line {start + hunk.start + 1}: {name} changes here without a mark above")
            for place in before:
                del at[place]
        found += [f"line {i + 1}: a mark in {name} without a change below" for i in at.values()]
    found += [f"line {i + 1}: a mark that belongs to no block of {parent_name}.py" for i in marks - used]
    return found


def code(text: str) -> list[str]:
    """Its lines without blank ones, comments and docstrings."""
    drop, rows = set(), text.splitlines()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            drop.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            rows[row - 1] = rows[row - 1][:column]
    return [row.rstrip() for i, row in enumerate(rows, 1) if row.strip() and i not in drop]


def diff_size(parent: str, child: str) -> int:
    return sum(line[0] in "+-" for line in difflib.ndiff(code(parent), code(child)))


def too_long(text: str, cap: int) -> list[str]:
    rows = text.splitlines()
    found = [f"line {i}: {len(row)} characters" for i, row in enumerate(rows, 1) if len(row) > 110]
    found += [f"{len(rows)} lines, the cap is {cap}"] if len(rows) > cap else []
    tree = ast.parse(text)
    if len(ast.get_docstring(tree, clean=False).splitlines()) > 32:
        found.append("docstring above 32 lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = sum("# changed from" not in row for row in rows[node.lineno - 1:node.end_lineno])
            more = 5 * ("class NoisyLinear" in text or "class SumTree" in text)  # draws of noise, priorities
            limit = 30 if node.name != "train" else 60 + more if "q_net" in text else 81
            if length > limit:
                found.append(f"{node.name}: {length} lines")
            if depth(node) > 4:
                found.append(f"{node.name}: nested {depth(node)} deep")
    return found


def depth(node: ast.AST) -> int:
    deeper = isinstance(node, ast.For | ast.While | ast.If | ast.With | ast.Try)
    return deeper + max((depth(child) for child in ast.iter_child_nodes(node)), default=0)


def impurities(text: str, name: str) -> list[str]:
    """What a pure function may not do: draw, print, step, or use a global other than torch, F, math and its
    types. And its tensor lines end in their shape."""
    tree = ast.parse(text)
    (node,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    stored = {part.id for part in ast.walk(node)
              if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    allowed = {arg.arg for arg in node.args.args} | stored | ALLOWED
    rows, found = text.splitlines(), []
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id not in allowed:
            found.append(f"{name} uses {part.id}")
        if isinstance(part, ast.Attribute) and IMPURE.match(part.attr):
            found.append(f"{name} uses .{part.attr}")
        if isinstance(part, ast.Assign) and not re.search(r"  # .*\(.*\)", rows[part.end_lineno - 1]):
            found.append(f"line {part.end_lineno}: no shape")
    return found


def misplaced(text: str) -> list[str]:
    """Departures from the order of a script: metadata, docstring, imports, Args, ..., train, main guard."""
    body, found = ast.parse(text).body, []
    if not text.startswith("# /// script\n"):
        found.append("does not begin with its metadata")
    kinds = [type(node) for node in body]
    if not ast.get_docstring(ast.parse(text)):
        found.append("no docstring")
    imports = [i for i, kind in enumerate(kinds) if kind in (ast.Import, ast.ImportFrom)]
    if imports != list(range(1, len(imports) + 1)):
        found.append("imports do not follow the docstring")
    if getattr(body[len(imports) + 1], "name", "") != "Args":
        found.append("Args does not follow the imports")
    names = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    known = [name for name in names if name in ORDER]
    if sorted(known, key=ORDER.index) != known:
        found.append(f"order: {known}")
    border = text.splitlines().index(BORDER) if BORDER in text else 0
    below = [node.name for node in body if getattr(node, "name", "") and node.lineno > border]
    if tuple(below) != PLUMBING:
        found.append(f"below the border: {below}")
    if kinds[-1] is not ast.If or body[-1].end_lineno - body[-1].lineno > 3:
        found.append("a main guard of four lines is not the end")
    return found


# ---- the scripts

def above(name: str) -> str | None:
    """Whose text holds for this script: its parent's, or dqn's."""
    return PARENT.get(name) or ("dqn" if name != "dqn" else None)


PAIRS = [name for name in SCRIPTS if above(name)]


def test_every_script_is_tested():
    there = [path.stem for path in ROOT.glob("*.py") if path.read_text().startswith("# /// script")]
    assert sorted(SCRIPTS) == sorted(there)  # beside them may lie modules with environments


@pytest.mark.parametrize("name", PAIRS)
def test_same_name_means_same_text(name):
    assert faults(TEXT[name], TEXT[above(name)], above(name), root=name not in PARENT) == []


@pytest.mark.parametrize("name", PAIRS)
def test_shared_blocks_stand_in_the_same_order(name):
    own, parents = list(blocks(TEXT[name])), list(blocks(TEXT[above(name)]))
    assert [block for block in own if block in parents] == [block for block in parents if block in own]


@pytest.mark.parametrize("name", PAIRS)
def test_plumbing_is_one_text(name):
    mine, dqn = (TEXT[script].partition(BORDER)[2] for script in (name, "dqn"))
    assert mine and dqn
    if name == "sac":  # for vectors only
        mark = "# changed from dqn.py: vectors only\n"
        assert mine.count(mark) == 1
        start, stop = mine.index(mark), mine.index("\n\n\n", mine.index(mark))
        old = slice(dqn.index("def make_envs("), dqn.index("\n\n\n", dqn.index("def make_envs(")))
        assert mine[start:stop].startswith(mark + "def make_envs(")
        mine = mine[:start] + dqn[old] + mine[stop:]
    assert mine == dqn


@pytest.mark.parametrize("name", PARENT)
def test_diff_to_the_parent_is_within_its_budget(name):
    assert diff_size(TEXT[PARENT[name]], TEXT[name]) <= BUDGET[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_lengths(name):
    assert too_long(TEXT[name], CAP[name]) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_order(name):
    assert misplaced(TEXT[name]) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_equations_are_in_pure_functions(name):
    there = [function for function in PURE if function in blocks(TEXT[name])]
    assert there and [line for function in there for line in impurities(TEXT[name], function)] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_docstring_names_its_paper_and_real_functions(name):
    docstring = ast.get_docstring(ast.parse(TEXT[name]))
    words = "Paper", "Adds", "Where", "Departs", "Run"
    starts = [re.search(rf"^{word}:", docstring, re.M) for word in words]
    assert all(starts) and starts == sorted(starts, key=lambda match: match.start())
    where = docstring[starts[2].end():starts[3].start()]
    targets = re.findall(r"->\s*([\w.]+)", where)
    assert targets
    for target in targets:
        block, _, method = target.strip(".").partition(".")
        start, stop = blocks(TEXT[name])[block]
        assert f"def {method}(" in "\n".join(TEXT[name].splitlines()[start:stop]) if method else True, target


# ---- the checker must catch what it is for

PARENT_TEXT = '''
@dataclass
class Args:
    a: int = 1  # one
    b: int = 2  # two
    c: int = 3  # three
    d: int = 4  # four


def loss(x):
    return x


def train(args):
    # act
    one()
    two()
    three()
    four()
    five()
    six()
'''
MARKED = "# changed from dqn.py: the paper\n"
GOOD = {
    "equal": PARENT_TEXT,
    "marked function": PARENT_TEXT.replace("def loss(x):\n", f"{MARKED}def loss(x):\n    x += 1\n"),
    "new function": PARENT_TEXT + "\n\ndef more():\n    return 1\n",
    "marked field": PARENT_TEXT.replace("    b: int = 2", f"    {MARKED}    b: int = 5"),
    "added field": PARENT_TEXT.replace("    b: int = 2", f"    {MARKED}    n: int = 5\n    b: int = 2"),
    "removed line": PARENT_TEXT.replace("    two()\n", f"    {MARKED}"),
    "added at the end": PARENT_TEXT + f"    {MARKED}    seven()\n",
    "two marked hunks": PARENT_TEXT.replace("    one()", f"    {MARKED}    uno()").replace(
        "    five()", f"    {MARKED}    cinque()"),
    "added twin line": PARENT_TEXT.replace("    two()\n", f"    {MARKED}    two()\n    two()\n"),
    "twin marked below": PARENT_TEXT.replace("    two()\n", f"    two()\n    {MARKED}    two()\n"),
}
BAD = {
    "function": PARENT_TEXT.replace("return x", "return 2 * x"),
    "comment": PARENT_TEXT.replace("return x", "return x  # x"),
    "stale mark": PARENT_TEXT.replace("def loss", f"{MARKED}def loss"),
    "wrong parent": GOOD["marked function"].replace("dqn.py", "ppo.py"),
    "no reason": GOOD["marked function"].replace(": the paper", ":"),
    "mark with a blank line below": GOOD["marked function"].replace("paper\n", "paper\n\n"),
    "decorator": PARENT_TEXT.replace("@dataclass\n", "@dataclass(frozen=True)\n"),
    "field": PARENT_TEXT.replace("b: int = 2", "b: int = 5"),
    "help text": PARENT_TEXT.replace("# two", "# zwei"),
    "removed field": PARENT_TEXT.replace("    b: int = 2  # two\n", ""),
    "line in train": PARENT_TEXT.replace("two()", "zwei()"),
    "second hunk without a mark": GOOD["two marked hunks"].replace(f"    {MARKED}    cinque", "    cinque"),
    "stale mark in train": PARENT_TEXT.replace("    two()", f"    {MARKED}    two()"),
    "mark too early": PARENT_TEXT.replace("    one()", f"    {MARKED}    one()").replace("four", "vier"),
    "mark on all of train": PARENT_TEXT.replace("def train", f"{MARKED}def train").replace("two", "zwei"),
    "mark on the whole of Args": PARENT_TEXT.replace("@data", f"{MARKED}@data").replace("= 2", "= 5"),
    "mark inside another function": PARENT_TEXT.replace("    return x", f"    {MARKED}    return 2 * x"),
    "mark on a new function": GOOD["new function"].replace("def more", f"{MARKED}def more"),
    "mark on a mark": GOOD["marked field"].replace(f"    {MARKED}", f"    {MARKED}" * 2),
    "mark behind code": PARENT_TEXT.replace("    two()", f"    zwei()  {MARKED}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", GOOD)
def test_checker_passes(case):
    assert faults(GOOD[case], PARENT_TEXT, "dqn") == []


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_checker_catches(case):
    assert BAD[case] != PARENT_TEXT
    assert faults(BAD[case], PARENT_TEXT, "dqn")


def test_checker_catches_any_changed_block_of_dqn():
    assert faults(TEXT["dqn"], TEXT["dqn"], "dqn") == []
    for block, (_, stop) in blocks(TEXT["dqn"]).items():
        rows = TEXT["dqn"].splitlines()
        rows[stop - 1] += "  # changed"
        assert len(faults("\n".join(rows), TEXT["dqn"], "dqn")) == 1, block


def test_checkers_of_length_order_and_purity_catch():
    text = TEXT["dqn"]
    assert too_long(text, len(text.splitlines()) - 1)
    assert too_long(text.replace("Run:\n", "Run:\n" + "\n" * 9), 1000) == ["docstring above 32 lines"]
    assert too_long(text.replace("    # act\n", "    # act\n" * 99), 1000)
    assert too_long(text.replace("    size = ", "    size = " * 9), 1000)
    assert too_long(text.replace("    seed_all(args.seed)\n", "    seed_all(args.seed)\n" * 20, 1), 1000)
    nested = "def f():" + "".join(f"\n{' ' * i}if 1:" for i in range(1, 6)) + " pass"
    assert too_long(text + nested, 1000) == ["f: nested 5 deep"]
    assert misplaced(text.replace("# /// script\n", "#\n"))
    assert misplaced(text.replace("\n@dataclass\n", "\nX = 1\n\n\n@dataclass\n"))
    assert misplaced(text.replace("import math\n", "import math\nX = 1\n"))
    assert misplaced(text.replace("def check(", "def swap(").replace("def act(", "def check(").replace(
        "def swap(", "def act("))
    assert misplaced(text.replace(BORDER, "# The rest."))
    assert misplaced(text + "    print()\n" * 4)
    assert misplaced(text + "\nprint()\n")
    for new in "args.gamma * next_q  # (B,)", "next_q", "torch.rand(3)  # (B,)", "y.to(DEVICE)  # (B,)":
        changed = text.replace("    q = q_net(batch.obs)", f"    z = {new}\n    q = q_net(batch.obs)")
        assert impurities(changed, "td_loss") and changed != text
    assert diff_size(text, text.replace("gamma", "g")) == 2 * sum("gamma" in line for line in code(text)) > 0
    assert diff_size(text, text.replace("# act", "# acts") + "\n# end\n") == 0


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_argument_is_used(name):
    """Elsewhere than in check, which only refuses."""
    blocks = [block for block in ast.parse(TEXT[name]).body if getattr(block, "name", "") != "check"]
    used = {node.attr for block in blocks for node in ast.walk(block) if isinstance(node, ast.Attribute)
            and getattr(node.value, "id", getattr(node.value, "attr", "")) == "args"}
    assert set(load(name).Args.__dataclass_fields__) - used == set()


@pytest.mark.parametrize("name", SCRIPTS)
def test_number_of_names(name):
    most = 18 if name in VALUE and name != "noisy_dqn" else 30 if name in ("a2c", "ppo") else 25
    assert len(blocks(TEXT[name])) <= most  # a2c and ppo have four more for several processes
