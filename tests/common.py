"""Which scripts there are and what holds for each; and how the tests run a script and read what it left.

A new script joins every test by its name in SCRIPTS, its CAP and, if it has a parent, its BUDGET.
"""
import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
sys.path[:0] = [str(ROOT), str(TESTS)]
torch.set_num_threads(1)

SCRIPTS = ["dqn", "double_dqn", "dueling_dqn", "noisy_dqn", "per_dqn", "reinforce", "vpg", "a2c",
           "ppo", "sac"]
PARENT = {"double_dqn": "dqn", "dueling_dqn": "dqn", "noisy_dqn": "dqn", "per_dqn": "dqn",
          "vpg": "reinforce", "a2c": "vpg", "ppo": "a2c"}
CAP = {"dqn": 505, "double_dqn": 503, "dueling_dqn": 506, "noisy_dqn": 544, "per_dqn": 580,
       "reinforce": 493, "vpg": 568, "a2c": 646, "ppo": 679, "sac": 525}  # lines of a file
BUDGET = {"double_dqn": 5, "dueling_dqn": 12, "noisy_dqn": 45, "per_dqn": 70,
          "vpg": 66, "a2c": 253, "ppo": 86}  # code lines, added + removed

VALUE = [name for name in SCRIPTS if name.endswith("dqn")]
POLICY = [name for name in SCRIPTS if name in ("reinforce", "vpg", "a2c", "ppo")]
PIXELS = VALUE + POLICY  # sac is for vectors only
EPISODIC = [name for name in POLICY if name in ("reinforce", "vpg")]
REPLAY = [name for name in SCRIPTS if name in VALUE or name == "sac"]

_replay = "--total-timesteps 300 --learning-starts 60 --buffer-size 200 --batch-size 16 --train-frequency 4"
_value = f"{_replay} --target-network-frequency 50"
_episodic = "--total-timesteps 300 --num-envs 2 --episodes-per-env 2"
_rollout = "--total-timesteps 320 --num-envs 2 --num-steps 16"
SMALL = {  # flags of a run of a few hundred steps
    "dqn": _value, "double_dqn": _value, "dueling_dqn": _value, "noisy_dqn": _value, "per_dqn": _value,
    "reinforce": _episodic, "vpg": _episodic, "a2c": _rollout,
    "ppo": f"{_rollout} --num-minibatches 2 --update-epochs 2",
    "sac": f"--env-id Pendulum-v1 {_replay}",
}
SMALL = {name: [*flags.split(), "--eval-episodes", "2"] for name, flags in SMALL.items()}
# ... with frames and the networks for them; the budget is small because an evaluation plays a whole game
PONG = ["--env-id", "ALE/Pong-v5", "--num-threads", "1", "--eval-episodes", "1"]
ONE_GAME = "--total-timesteps 1 --num-envs 1 --episodes-per-env 1".split()  # a batch is at least that
FRAMES = {name: PONG for name in PIXELS}  # a game takes long where whole ones make a batch
FRAMES |= {name: ["--env-id", "probes:Frames-v0", *PONG[2:]] for name in EPISODIC}

EVAL = re.compile(r"eval: mean (-?\d+\.\d+) std (\d+\.\d+) over (\d+) episodes")


class Result(NamedTuple):
    status: int
    out: str
    err: str


def start(script: str, *flags, cwd: Path, path: Path | None = None) -> subprocess.Popen:
    """The script as its users run it, in a process of its own with one thread for torch."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    command = [sys.executable, path or ROOT / f"{script}.py", *flags]
    return subprocess.Popen([str(part) for part in command], cwd=cwd, env=env, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(process: subprocess.Popen, status: int | None = 0, timeout: float = 600) -> Result:
    """Wait for it, and insist on its exit status (None: any)."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert status is None or process.returncode == status, f"exit status {process.returncode}: {out}{err}"
    return Result(process.returncode, out, err)


def run(script: str, *flags, cwd: Path, status: int | None = 0) -> Result:
    return end(start(script, *flags, cwd=cwd), status)


@contextlib.contextmanager
def as_it_was(cwd: Path):
    """In the folder cwd; afterwards torch's threads, generator and subnormal numbers are as before."""
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    with contextlib.chdir(cwd):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_rng_state(rng)
            torch.set_flush_denormal(False)


def call(script: str, *flags, cwd: Path, status: int | None = 0, path: Path | None = None) -> Result:
    """Like run, without the seconds that a process of its own takes to start. Warnings are in `err`, too."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, [str(part) for part in (path or ROOT / f"{script}.py", *flags)]
    code = 0
    try:
        with (as_it_was(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
              warnings.catch_warnings()):
            warnings.simplefilter("default")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
        if not isinstance(code, int | None):  # sys.exit(message)
            print(code, file=err)
            code = 1
        code = code or 0
    finally:
        sys.argv = argv
    result = Result(code, out.getvalue(), err.getvalue())
    assert status is None or code == status, f"exit status {code}: {result.out}{result.err}"
    return result


def train(module, cwd: Path, **fields) -> Path:
    """module.train with these Args in the folder cwd: the folder of the run."""
    before = set(cwd.glob("runs/*"))
    with as_it_was(cwd), contextlib.redirect_stdout(io.StringIO()):
        module.train(module.Args(**fields))
    (folder,) = set(cwd.glob("runs/*")) - before
    return folder


def load(script: str):
    """The script as a module."""
    return importlib.import_module(script)


def probe(script: str, name: str) -> str:
    """The id of that environment, or of the one like it with an action that the script takes."""
    return f"probes:{name}{'Box' if script == 'sac' else ''}-v0"


def takes(script: str, flags: str) -> bool:
    """Whether the script has all these flags."""
    names = {field.name for field in dataclasses.fields(load(script).Args)}
    names |= {f"no_{name}" for name in names}
    return {word[2:].replace("-", "_") for word in flags.split() if word.startswith("--")} <= names


def run_folder(cwd: Path) -> Path:
    (folder,) = cwd.glob("runs/*")
    return folder


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All (step, value) of every tag but the speed, in the order TensorBoard shows them."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    tags = [tag for tag in reader.Tags()["scalars"] if tag != "charts/SPS"]
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags}


def checkpoint(path: Path) -> dict:
    """A copy of what is in the file, which may be replaced afterwards."""
    return torch.load(path, map_location="cpu", weights_only=True)


def differences(a, b, where: str = "") -> list[str]:
    """Where two checkpoints differ in a single bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [line for name in {**a, **b} for line in
                (differences(a[name], b[name], f"{where}/{name}") if name in a and name in b
                 else [f"{where}/{name}: only in one"])]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b, strict=True))
                for line in differences(x, y, f"{where}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = (a.dtype, a.shape) == (b.dtype, b.shape) and a.numpy().tobytes() == b.numpy().tobytes()
    else:
        same = type(a) is type(b) and a == b
    return [] if same else [f"{where}: {a} and {b}"]


KINDS = ["dqn", "ppo", "sac"]  # one script of each kind, for what is one text in all


def all_of(scripts: list[str]) -> list:
    """For pytest's parametrize: of these scripts the kinds in the short run, the others in the slow one."""
    import pytest
    return [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in scripts]


def fields(script: str, *flags) -> dict:
    """The arguments of a small run with these flags too, as `train` takes them."""
    import tyro
    return vars(tyro.cli(load(script).Args, args=[*SMALL[script], *map(str, flags)]))


def having(name: str, scripts: list[str] = SCRIPTS) -> list[str]:
    """The first script with each text of the class or function of this name: what is equal is tested once."""
    found = {}
    for script in scripts:
        thing = getattr(load(script), name, None)
        if thing is not None and thing.__module__ == script:
            found.setdefault(inspect.getsource(thing), script)
    return list(found.values())
