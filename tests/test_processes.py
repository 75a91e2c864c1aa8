"""a2c.py and ppo.py in two processes, as torchrun starts them: what they compute, who writes, and resuming.

Run as a program, this file is one of the processes, and leaves what it saw in a file (observe)."""
import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import tyro
from common import EVAL, ROOT, TESTS, call, checkpoint, differences, events, load, run_folder, train
from test_resume import assert_same_end

BOTH = ["a2c", "ppo"]
PENDULUM = ["--env-id", "Pendulum-v1", "--norm-obs", "--norm-reward"]
TINY = ["--num-envs", "4", "--num-steps", "16", "--eval-episodes", "1"]
LIMIT = 120  # seconds after which a run hangs


def flags_of(script: str, *more) -> list[str]:
    few = ["--num-minibatches", "2", "--update-epochs", "2"] if script == "ppo" else []
    return [*TINY, *few, *map(str, more)]


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def communicate(processes: list[subprocess.Popen], limit: float, status: int = 0) -> list[tuple[str, str]]:
    """Output and errors of each, all of which must end with this status before the limit."""
    try:
        end = time.time() + limit
        found = [process.communicate(timeout=max(end - time.time(), 1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [status] * len(processes), found
    return found


def launch(path, *flags, cwd, world=2, status=0, limit=LIMIT) -> list[tuple[str, str]]:
    """The program in `world` processes, each in a folder of its own: their output and errors."""
    common = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}:{ROOT}", "WORLD_SIZE": str(world),
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = []
    for rank in map(str, range(world)):
        (cwd / rank).mkdir(exist_ok=True)
        processes.append(subprocess.Popen([sys.executable, *map(str, (path, *flags))], cwd=cwd / rank,
                                          env={**common, "RANK": rank, "LOCAL_RANK": rank}, text=True,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    return communicate(processes, limit, status)


def note_threads() -> None:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    Path("threads").write_text("\n".join(names))


def observe(script: str, *flags) -> None:
    """A run that leaves its rollouts and its parts at the end in seen.pt. With --target-kl, the KL divergence
    of the data of rank r is r."""
    module, seen = load(script), {"batches": []}
    start, rollout = module.start, module.Rollout

    def keep_parts(args, state, parts, rank):
        seen["parts"] = parts
        return start(args, state, parts, rank)

    def keep_batch(*tensors):
        seen["batches"].append(tensors)
        return rollout(*tensors)

    module.start, module.Rollout = keep_parts, keep_batch
    atexit.register(note_threads)  # before the script's own, so that it runs after them
    if "--target-kl" in flags:
        loss, kl = module.ppo_loss, torch.tensor(float(os.environ["RANK"]))
        module.ppo_loss = lambda *args: (lambda x, info: (x, {**info, "approx_kl": kl}))(*loss(*args))
    module.train(tyro.cli(module.Args, args=flags))
    seen["parts"] = {name: part.state_dict() for name, part in seen["parts"].items()}
    torch.save(seen, "seen.pt")


def seen_by(cwd, script: str, *flags) -> list[dict]:
    launch(__file__, script, *flags, cwd=cwd)
    for rank in "01":  # a thread that outlives Python's objects aborts the process, rarely
        assert "gloo" not in (cwd / rank / "threads").read_text()
    return [torch.load(cwd / rank / "seen.pt", weights_only=True) for rank in "01"]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


# ---- what they compute

@pytest.mark.parametrize("script, more", [
    ("ppo", [*PENDULUM, "--max-grad-norm", "0.01"]),
    slow("ppo", [*PENDULUM, "--no-norm-adv", "--max-grad-norm", "0"]),
    slow("ppo", ["--clip-vloss", "--ent-coef", "0.01", "--max-grad-norm", "0"]),
    slow("a2c", [*PENDULUM, "--max-grad-norm", "0.01"]), slow("a2c", ["--max-grad-norm", "0"])])
def test_an_update_is_that_of_one_process_with_all_data(script, more, tmp_path, monkeypatch):
    """Weights, the optimizer's means of the gradient, and both normalisers."""
    once = ["--num-minibatches", "1", "--update-epochs", "1"] if script == "ppo" else []
    flags = [*TINY, "--total-timesteps", "64", *once, *more]
    a, b = seen_by(tmp_path, script, *flags)
    assert len(a["batches"]) == len(b["batches"]) == 1
    union = [torch.cat(pair, dim=1) for pair in zip(a["batches"][0], b["batches"][0], strict=True)]
    assert union[0].shape[:2] == (16, 4)
    module = load(script)
    rollout = module.Rollout
    monkeypatch.setattr(module, "Rollout", lambda *_: rollout(*union))
    one = checkpoint(train(module, tmp_path, **vars(tyro.cli(module.Args, args=flags))) / "checkpoint.pt")
    for name, parts in a["parts"].items():
        torch.testing.assert_close(parts, one[name], rtol=1e-4, atol=1e-6)
    assert one["step"] == checkpoint(run_folder(tmp_path / "0") / "checkpoint.pt")["step"] == 64


@pytest.mark.slow
@pytest.mark.parametrize("script", BOTH)
@pytest.mark.parametrize("more", [[], PENDULUM])
def test_weights_are_the_same_and_data_is_not(script, more, tmp_path):
    """To the bit, after several updates, in all parts; a checkpoint begins new episodes in between."""
    flags = flags_of(script, "--total-timesteps", 320, "--checkpoint-frequency", 128, *more)
    a, b = seen_by(tmp_path, script, *flags)
    assert len(a["batches"]) == len(b["batches"]) == 5
    assert differences(a["parts"], b["parts"]) == []
    for x, y in zip(a["batches"], b["batches"], strict=True):
        assert not set(map(tuple, x[0].flatten(0, 1).tolist())) & set(map(tuple, y[0].flatten(0, 1).tolist()))
        assert not torch.equal(x[1], y[1])  # actions
    saved = checkpoint(run_folder(tmp_path / "0") / "checkpoint.pt")
    assert differences(a["parts"], {name: saved[name] for name in a["parts"]}) == []
    assert saved["step"] == 320 and saved["args"]["num_envs"] == 4 and saved["args"]["seed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("target, epochs", [(0.3, 1), (0.7, 4)])
def test_target_kl_is_of_all_data(target, epochs, tmp_path):
    """The data of one process alone has a KL divergence of 1, beyond the target. The mean, 0.5, decides; a
    process that stopped alone would leave the other waiting."""
    flags = [*TINY, "--total-timesteps", "128", "--num-minibatches", "1", "--update-epochs", "4"]
    a, b = seen_by(tmp_path, "ppo", *flags, "--target-kl", str(target))
    assert differences(a["parts"], b["parts"]) == []
    assert {int(state["step"]) for state in a["parts"]["optimizer"]["state"].values()} == {2 * epochs}


@pytest.mark.parametrize("script", BOTH)
def test_one_process_needs_no_torch_distributed(script, tmp_path, monkeypatch):
    module = load(script)
    monkeypatch.setattr(module, "distributed", None)
    for name in "RANK", "WORLD_SIZE":
        monkeypatch.delenv(name, raising=False)
    more = {"target_kl": 0.01} if script == "ppo" else {}
    folder = train(module, tmp_path, env_id="Pendulum-v1", norm_obs=True, norm_reward=True, num_envs=2,
                   num_steps=16, total_timesteps=64, eval_episodes=1, **more)
    assert checkpoint(folder / "checkpoint.pt")["step"] == 64


# ---- who writes, and what

@pytest.mark.slow
@pytest.mark.parametrize("script", BOTH)
def test_the_first_process_alone_writes(script, tmp_path):
    """And evaluates. Its episodes have transitions of their own. The bar counts those of all processes."""
    flags = flags_of(script, "--total-timesteps", 640, "--checkpoint-frequency", 100)
    (out, err), (other_out, other_err) = launch(ROOT / f"{script}.py", *flags, cwd=tmp_path)
    assert re.fullmatch(rf"run folder: runs/\S+\nevaluating 1 episodes\n{EVAL.pattern}\n", out)
    assert "640/640" in err
    assert (other_out, other_err, list((tmp_path / "1").iterdir())) == ("", "", [])
    folder = run_folder(tmp_path / "0")
    tags = events(folder)
    steps = [step for step, _ in tags["charts/episodic_return"]]
    assert len(steps) == len(set(steps)) > 3 and max(steps) <= 640
    assert all((step - 1) % 4 in (2, 3) for step in steps)  # its two environments stand at the end of a step
    again = launch(ROOT / f"{script}.py", "--evaluate", folder / "model.pt", cwd=tmp_path)
    assert [lines for lines, _ in again] == ["\n".join(out.splitlines()[1:]) + "\n", ""]


@pytest.mark.slow
def test_films_are_of_the_first_process(tmp_path):
    flags = flags_of("ppo", "--total-timesteps", 128, "--capture-video", "--checkpoint-frequency", 0)
    launch(ROOT / "ppo.py", *flags, cwd=tmp_path)
    assert list(run_folder(tmp_path / "0").glob("videos/*/*.mp4")) and not list((tmp_path / "1").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("script", BOTH)
def test_killed_and_resumed(script, tmp_path):
    """Both, in the middle of a rollout. As many processes end in the same bits as if never stopped."""
    flags = flags_of(script, "--total-timesteps", 1600, "--checkpoint-frequency", 500, *PENDULUM)
    for name in "whole", "stopped":
        (tmp_path / name).mkdir()
    whole = launch(ROOT / f"{script}.py", *flags, cwd=tmp_path / "whole")
    launch(TESTS / "killed.py", "SIGKILL", 265, ROOT / f"{script}.py", *flags, cwd=tmp_path / "stopped",
           status=-signal.SIGKILL)
    folder = run_folder(tmp_path / "stopped" / "0")
    assert checkpoint(folder / "checkpoint.pt")["step"] == 1024
    time.sleep(1)  # files of events are read in the order of the seconds in their names
    resumed = launch(ROOT / f"{script}.py", "--resume", folder / "checkpoint.pt", cwd=tmp_path / "stopped")
    assert resumed[0][0].splitlines()[-1] == whole[0][0].splitlines()[-1]
    assert_same_end(run_folder(tmp_path / "whole" / "0"), folder)


@pytest.mark.parametrize("script, flags, sentence", [
    *((script, ["--num-envs", "3"], "--num-envs must be a multiple of 2, the number of processes, not 3")
      for script in BOTH),
    ("a2c", ["--num-envs", "1"], "--num-envs must be a multiple of 2"),
    ("ppo", ["--num-envs", "2", "--num-steps", "5"], "--num-minibatches must divide")])
def test_what_cannot_be_shared_is_refused(script, flags, sentence, tmp_path, monkeypatch):
    """In one sentence, before the processes meet."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "init_process_group", None)
    result = call(script, *flags, cwd=tmp_path, status=1)
    assert result.err.startswith(sentence) and result.err.count("\n") == 1 and result.out == ""
    assert not list(tmp_path.iterdir())


# ---- torchrun itself

def torchrun(*flags, cwd) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, flags)]
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("script", BOTH)
def test_learns_cartpole(script, tmp_path):
    command = ["--standalone", "--nproc-per-node", 2, ROOT / f"{script}.py", "--eval-episodes", 20]
    ((out, _),) = communicate([torchrun(*command, cwd=tmp_path)], 900)
    assert float(EVAL.fullmatch(out.splitlines()[-1])[1]) >= 475


@pytest.mark.slow
def test_two_machines(tmp_path):
    """The command of the README, with this machine as both."""
    port, processes = free_port(), []
    for node in "01":
        (tmp_path / node).mkdir()
        processes.append(torchrun("--nnodes", 2, "--node-rank", node, "--nproc-per-node", 1, "--master-addr",
                                  "127.0.0.1", "--master-port", port, ROOT / "ppo.py",
                                  *flags_of("ppo", "--total-timesteps", 128), cwd=tmp_path / node))
    (out, _), (other_out, _) = communicate(processes, LIMIT)
    assert EVAL.fullmatch(out.splitlines()[-1]) and other_out == "" and not list((tmp_path / "1").iterdir())


if __name__ == "__main__":
    observe(*sys.argv[1:])
