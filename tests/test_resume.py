"""A run that is stopped in any way, at any moment, and resumed ends in the same bits as one never stopped."""
import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from common import (
    EPISODIC,
    EVAL,
    KINDS,
    PONG,
    REPLAY,
    ROOT,
    SCRIPTS,
    SMALL,
    TESTS,
    VALUE,
    as_it_was,
    call,
    checkpoint,
    differences,
    end,
    events,
    fields,
    load,
    run_folder,
    start,
    takes,
    train,
)
from gymnasium.vector import SyncVectorEnv


def assert_same_end(whole, resumed, logs=True):
    """Every tensor of the checkpoint and the model, and all events."""
    for name in "checkpoint.pt", "model.pt":
        assert differences(checkpoint(whole / name), checkpoint(resumed / name)) == []
    if logs:
        a, b = events(whole), events(resumed)
        assert len(a) >= 4 and {tag: a[tag] for tag in sorted(a)} == {tag: b[tag] for tag in sorted(b)}


def flags_of(script, total=2400, every=700):
    flags = [*SMALL[script], "--num-envs", 2, "--total-timesteps", total, "--checkpoint-frequency", every]
    flags += ["--buffer-size", 1000] if script in REPLAY else []  # the ring is full before the end
    flags += ["--n-step", 3] if script in VALUE else []
    return [*map(str, flags)]


def stop_and_resume(script, cwd, flags, steps, signal_name="SIGKILL"):
    """A run that gets the signal at this step of its environments, and is resumed, beside one that does not.
    Returns its standard error."""
    for name in "whole", "stopped":
        (cwd / name).mkdir()
    command = [signal_name, steps, ROOT / f"{script}.py", *flags]
    stopped = start(script, *command, path=TESTS / "killed.py", cwd=cwd / "stopped")
    whole_out = call(script, *flags, cwd=cwd / "whole").out
    err = end(stopped, status=-signal.Signals[signal_name]).err
    folder = run_folder(cwd / "stopped")
    assert not (folder / "model.pt").exists()
    assert 0 < checkpoint(folder / "checkpoint.pt")["step"] < checkpoint(
        run_folder(cwd / "whole") / "checkpoint.pt")["step"]
    time.sleep(1)  # files of events are read in the order of the seconds in their names
    result = call(script, "--resume", folder / "checkpoint.pt", cwd=cwd / "stopped")
    assert result.out.splitlines()[-1] == whole_out.splitlines()[-1]
    assert_same_end(run_folder(cwd / "whole"), folder)
    return err


BOTH_NORMS = ["--env-id", "Pendulum-v1", "--norm-obs", "--norm-reward"]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("script, more", [
    ("dqn", []), ("ppo", BOTH_NORMS), ("sac", []),
    *(slow(script, []) for script in SCRIPTS if script not in ("dqn", "sac")),
    slow("a2c", BOTH_NORMS), slow("vpg", ["--baseline", "mean"])])
def test_killed_and_resumed(script, more, tmp_path):
    """In the middle of a rollout, after losses were logged that the resumed run has to log again."""
    stop_and_resume(script, tmp_path, flags_of(script) + more, steps=605)


@pytest.mark.parametrize("script, name", [("ppo", "SIGINT"), slow("dqn", "SIGINT"), slow("sac", "SIGTERM"),
                                          slow("reinforce", "SIGHUP")])
def test_interrupted_and_resumed(script, name, tmp_path):
    """The process dies of the signal, as a shell's loop over seeds has to see (test_a_loop_ends)."""
    err = stop_and_resume(script, tmp_path, flags_of(script), 605, name)
    assert ("KeyboardInterrupt" in err) == (name == "SIGINT")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["dqn", "per_dqn", "reinforce", "ppo"])
def test_killed_and_resumed_on_frames(script, tmp_path):
    flags = [*flags_of(script, 240, 70), "--env-id", "odd:Stacks-v0", "--num-threads", "1"]
    flags += ["--buffer-size", "100", "--train-frequency", "20"] if script in VALUE else []
    flags += ["--value-epochs", "2"] * takes(script, "--value-epochs")
    for name in "whole", "stopped":
        (tmp_path / name).mkdir()
    stopped = start(script, "SIGKILL", 75, ROOT / f"{script}.py", *flags, path=TESTS / "killed.py",
                    cwd=tmp_path / "stopped")
    call(script, *flags, cwd=tmp_path / "whole")
    end(stopped, status=-signal.SIGKILL)
    folder = run_folder(tmp_path / "stopped")
    assert 0 < checkpoint(folder / "checkpoint.pt")["step"] < 240
    call(script, "--resume", folder / "checkpoint.pt", cwd=tmp_path / "stopped")
    assert_same_end(run_folder(tmp_path / "whole"), folder, logs=False)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["dqn", "ppo"])
def test_killed_and_resumed_on_pong(script, tmp_path):
    flags = [*flags_of(script, 1200, 500), *PONG, "--repeat-action-probability", "0.25"]
    flags += ["--batch-size", "8", "--train-frequency", "20"] if script == "dqn" else ["--update-epochs", "1"]
    for name in "whole", "stopped":
        (tmp_path / name).mkdir()
    stopped = start(script, "SIGKILL", 405, ROOT / f"{script}.py", *flags, path=TESTS / "killed.py",
                    cwd=tmp_path / "stopped")
    call(script, *flags, cwd=tmp_path / "whole")
    end(stopped, status=-signal.SIGKILL)
    folder = run_folder(tmp_path / "stopped")
    assert 0 < checkpoint(folder / "checkpoint.pt")["step"] < 1200
    call(script, "--resume", folder / "checkpoint.pt", cwd=tmp_path / "stopped")
    assert_same_end(run_folder(tmp_path / "whole"), folder, logs=False)


@pytest.mark.parametrize("script", KINDS)
def test_environments_may_draw_from_the_global_generators(script, tmp_path, monkeypatch):
    """Of random and NumPy (stable-baselines#761, tianshou#546): the same bits again, and after a stop."""
    env_id = f"odd:Global{'Box' if script == 'sac' else ''}-v0"
    given = fields(script, "--env-id", env_id, "--checkpoint-frequency", 100)
    for name in "abc":
        (tmp_path / name).mkdir()
    a, b = (train(load(script), tmp_path / name, **given) for name in "ab")
    assert_same_end(a, b, logs=False)
    step, calls = SyncVectorEnv.step, []

    def interrupted(self, actions):
        calls.append(1)
        if len(calls) == 150 // given["num_envs"]:
            raise KeyboardInterrupt
        return step(self, actions)
    with monkeypatch.context() as patch:
        patch.setattr(SyncVectorEnv, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(load(script), tmp_path / "c", **given)
    c = run_folder(tmp_path / "c")
    assert 0 < checkpoint(c / "checkpoint.pt")["step"] < 150
    call(script, "--resume", c / "checkpoint.pt", cwd=tmp_path / "c")
    assert_same_end(a, c, logs=False)


@pytest.mark.parametrize("script", KINDS)
def test_resuming_a_finished_run_only_evaluates(script, tmp_path):
    first = call(script, *SMALL[script], cwd=tmp_path).out.splitlines()[-1]
    path = run_folder(tmp_path) / "checkpoint.pt"
    before = checkpoint(path)
    for flags in [], ["--total-timesteps", before["args"]["total_timesteps"]]:
        again = call(script, "--resume", path, *flags, cwd=tmp_path)
        assert again.out.splitlines()[-1] == first
        assert differences(before, checkpoint(path)) == []
    assert run_folder(tmp_path) == path.parent


@pytest.mark.parametrize("script", KINDS)
def test_typed_flags_win(script, tmp_path):
    """Over what the checkpoint says, which wins over the defaults. No other folder is made."""
    call(script, *SMALL[script], "--seed", "5", "--eval-episodes", "3", cwd=tmp_path)
    path = run_folder(tmp_path) / "checkpoint.pt"
    before = checkpoint(path)
    typed = {"total_timesteps": 480, "gamma": 0.95, "learning_rate": 0.002}
    typed |= {"adam_eps": 0.25} if takes(script, "--adam-eps") else {}
    flags = [word for name, value in typed.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = call(script, "--resume", path, *flags, cwd=tmp_path)
    assert EVAL.fullmatch(result.out.splitlines()[-1])[3] == "3"
    after = checkpoint(path)
    expected = {**before["args"], **typed}
    assert differences({"args": after["args"]}, {"args": expected}) == [] and expected["seed"] == 5
    groups = [group for name, part in after.items() if "optimizer" in name for group in part["param_groups"]]
    left = 1 - (after["step"] - 32) / 480 if script == "ppo" else 1  # at the last rollout of 2 * 16
    assert len(groups) == (3 if script == "sac" else 1)
    assert [group["lr"] for group in groups] == [pytest.approx(0.002 * left, rel=1e-9)] * len(groups)
    if "adam_eps" in typed:
        assert groups[0]["eps"] == 0.25
    assert run_folder(tmp_path) == path.parent and 480 <= after["step"] < 520
    for name in "checkpoint.pt", "model.pt":  # whose arguments have a --resume now
        again = call(script, "--evaluate", path.with_name(name), cwd=tmp_path)
        assert again.out.splitlines() == result.out.splitlines()[1:]


def test_train_resumes_from_a_path(tmp_path):
    """In a notebook: train(Args(resume=path)), without the content of the file. Where that is given, what is
    loaded is taken out of it: a replay memory must not be there twice."""
    script = "ppo"
    for name in "ab":
        (tmp_path / name).mkdir()
        call(script, *SMALL[script], cwd=tmp_path / name)
    a, b = (run_folder(tmp_path / name) for name in "ab")
    call(script, "--resume", a / "checkpoint.pt", "--total-timesteps", "480", cwd=tmp_path)
    module = load(script)
    more = {"resume": str(b / "checkpoint.pt"), "total_timesteps": 480}
    with as_it_was(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        mean = module.train(module.Args(**fields(script) | more))
    assert_same_end(a, b, logs=False)
    assert events(b)["eval/return"][-1][1] == pytest.approx(mean)
    with as_it_was(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        args = module.Args(**fields(script) | more | {"total_timesteps": 640})
        module.train(args, state := module.load(args))
    assert state.keys() == {"script", "args", "step"}


@pytest.mark.parametrize("script", ["dqn", "ppo"])
def test_checkpoints_are_where_they_are_due(script, tmp_path):
    """The checkpoints of a run are at multiples of its frequency, and at its end."""
    module, steps = load(script), []
    original = module.Run.save
    try:
        module.Run.save = lambda run, name, step, parts: steps.append((name, step)) or original(
            run, name, step, parts)
        train(module, tmp_path, **fields(script, "--checkpoint-frequency", 128, "--num-envs", 2))
    finally:
        module.Run.save = original
    last = 320 if script == "ppo" else 300
    assert steps == [*(("checkpoint.pt", step) for step in (0, 128, 256, last)), ("model.pt", last)]


def test_a_copy_can_be_resumed_elsewhere(tmp_path):
    """The run goes on in the folder of the file, wherever that is now."""
    call("dqn", *SMALL["dqn"], cwd=tmp_path)
    there = tmp_path / "a folder" / "run"
    shutil.copytree(run_folder(tmp_path), there)
    before = {path: path.read_bytes() for path in run_folder(tmp_path).iterdir()}
    call("dqn", "--resume", there / "checkpoint.pt", "--total-timesteps", 400, cwd=tmp_path)
    assert checkpoint(there / "checkpoint.pt")["step"] == 400
    assert before == {path: path.read_bytes() for path in run_folder(tmp_path).iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_loop_ends(tmp_path):
    """One Ctrl-C ends a loop over seeds, not only the run at hand."""
    command = f"{sys.executable} {ROOT / 'dqn.py'} --total-timesteps 10000000 --seed $seed"
    loop = subprocess.Popen(["bash", "-c", f"for seed in 1 2 3; do {command}; done; echo more"], cwd=tmp_path,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                            start_new_session=True)
    try:
        assert loop.stdout.readline().startswith("run folder: runs/")
        time.sleep(1)
        os.killpg(loop.pid, signal.SIGINT)
        out, _ = loop.communicate(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(loop.pid, signal.SIGKILL)
    assert out == "" and len(list(tmp_path.glob("runs/*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", EPISODIC)
def test_ctrl_c_ends_an_endless_batch(script, tmp_path):
    process = start(script, "--env-id", "probes:Endless-v0", cwd=tmp_path)
    assert process.stdout.readline().startswith("run folder: runs/")
    process.send_signal(signal.SIGINT)
    end(process, status=-signal.SIGINT, timeout=30)
