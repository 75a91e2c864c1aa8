"""A run killed with -9 and resumed ends in the same bits as one never stopped. Signals save; NaN does not."""
import re
import shutil
import signal
import time

import pytest
from common import (
    EPISODIC,
    EVAL,
    FRAMES,
    PIXELS,
    POLICY,
    REPLAY,
    ROOT,
    SCRIPTS,
    SMALL,
    VALUE,
    call,
    checkpoint,
    differences,
    end,
    events,
    probe,
    run_folder,
    start,
    takes,
)


def flags_of(script, every, total, *flags):
    """A run of `total` with a checkpoint `every` so many transitions, slow enough to be killed on its way."""
    given = [*SMALL[script], "--num-envs", "3", "--total-timesteps", total, "--checkpoint-frequency", every]
    if script in REPLAY:
        batch_size = "16" if script == "sac" else "128"  # its networks are slow enough
        given += ["--buffer-size", total, "--batch-size", batch_size, "--train-frequency", "1"]
    if script in VALUE:
        given += ["--n-step", "3", "--target-network-frequency", "100"]
    return [*given, *flags]


def wait_for(condition, process, seconds=120):
    """What the condition returns once it is true; the process must go on until then."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.005)
    return found


def step_of(cwd):
    """Step of the checkpoint that the run in cwd has written last, 0 before there is one."""
    paths = list(cwd.glob("runs/*/checkpoint.pt"))
    return checkpoint(paths[0])["step"] if paths else 0


def assert_same_end(whole, resumed):
    """Every tensor of the checkpoint, generators, recent returns, and all events."""
    for name in "checkpoint.pt", "model.pt":
        assert differences(checkpoint(whole / name), checkpoint(resumed / name)) == []
    a, b = events(whole), events(resumed)
    assert len(a) >= 2 and {tag: a[tag] for tag in sorted(a)} == {tag: b[tag] for tag in sorted(b)}


def kill_and_resume(script, tmp_path, flags, every, back):
    """`back`: resume not from the last checkpoint but from the first, with later events in the folder."""
    for name in "whole", "killed":
        (tmp_path / name).mkdir()
    whole, killed = (start(script, *flags, cwd=tmp_path / name) for name in ("whole", "killed"))
    cwd = tmp_path / "killed"
    first = wait_for(lambda: step_of(cwd), killed)
    shutil.copy(run_folder(cwd) / "checkpoint.pt", tmp_path / "first.pt")
    if back:
        wait_for(lambda: step_of(cwd) > first, killed)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    folder = run_folder(cwd)
    assert every <= first < step_of(cwd) + every and not (folder / "model.pt").exists()
    if back:
        shutil.copy(tmp_path / "first.pt", folder / "checkpoint.pt")
        assert step_of(cwd) < max(step for points in events(folder).values() for step, _ in points)
    whole_out = end(whole).out
    result = end(start(script, "--resume", folder / "checkpoint.pt", cwd=cwd))
    assert result.out.splitlines()[-1] == whole_out.splitlines()[-1]
    assert_same_end(run_folder(tmp_path / "whole"), run_folder(cwd))


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_and_resumed(script, tmp_path):
    every, total = (1000, 8000) if script in POLICY else (600, 2400)
    flags = flags_of(script, str(every), str(total), *["--learning-rate", "1e-3"] * (script in POLICY))
    kill_and_resume(script, tmp_path, flags, every, back=True)


@pytest.mark.parametrize("script, flags", [
    ("vpg", "--baseline mean"), ("a2c", "--env-id Pendulum-v1 --norm-obs --norm-reward"),
    ("ppo", "--env-id Pendulum-v1 --norm-obs --norm-reward")])
def test_statistics_are_resumed(script, flags, tmp_path):
    """The mean of the returns; of the observations and rewards."""
    flags = flags_of(script, "1000", "6000", *flags.split(), "--learning-rate", "1e-3")
    kill_and_resume(script, tmp_path, flags, 1000, back=False)


@pytest.mark.parametrize("script", PIXELS)
def test_killed_and_resumed_on_pixels(script, tmp_path):
    flags = flags_of(script, "150", "900" if script in EPISODIC else "600", *FRAMES[script])
    flags += ["--value-epochs", "2"] * takes(script, "--value-epochs")
    if script in VALUE:
        flags += ["--batch-size", "8", "--train-frequency", "4"]
    kill_and_resume(script, tmp_path, flags, 150, back=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_signal_saves_and_says_how_to_go_on(script, tmp_path):
    """And what is typed beside --resume overrides what the checkpoint says, which overrides the defaults.

    Episodes are of 5 steps, so that some end before the signal and after it, however fast the machine
    is and whatever was learned: on CartPole a good policy holds all 500 steps of the rest.
    """
    flags = flags_of(script, "0", "1000000", "--seed", "5", "--env-id", probe(script, "Limit"))
    if script in REPLAY:
        flags += ["--buffer-size", "5000"]
    process = start(script, *flags, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/*/events*")), process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    result = end(process, status=128 + signal.SIGTERM, timeout=60)
    assert not EVAL.search(result.out)
    path = run_folder(tmp_path) / "checkpoint.pt"
    there = ROOT / f"{script}.py"  # as it was started, from another folder
    assert result.err.strip().endswith(f"python {there} --resume {path.relative_to(tmp_path)}")
    assert not (path.parent / "model.pt").exists()
    state = checkpoint(path)
    assert 0 < state["step"] < 1_000_000

    time.sleep(1.1)  # files of events are read in the order of the seconds in their names
    total = state["step"] + 500
    typed = f"--total-timesteps {total} --gamma 0.95 --learning-rate 0.002".split()
    more = {"value_learning_rate": 0.003} if takes(script, "--value-learning-rate") else {}
    typed += ["--value-learning-rate", "0.003"] * len(more)
    result = call(script, "--resume", path, *typed, cwd=tmp_path)
    assert EVAL.fullmatch(result.out.splitlines()[-1])
    after = checkpoint(path)
    expected = {**state["args"], "total_timesteps": total, "gamma": 0.95, "learning_rate": 0.002, **more}
    assert differences({"args": after["args"]}, {"args": expected}) == [] and expected["seed"] == 5
    if script in VALUE + POLICY:
        fallen = 1 - (after["step"] - 48) / total if script == "ppo" else 1  # at the last rollout of 3 * 16
        assert after["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.002 * fallen, rel=1e-9)
    if more:
        assert after["critic_optimizer"]["param_groups"][0]["lr"] == 0.003
    assert total <= after["step"] < total + 200
    assert run_folder(tmp_path) == path.parent  # and no other folder
    points = events(path.parent)["charts/episodic_return"]
    assert points[0][0] < state["step"] < points[-1][0]
    for name in "checkpoint.pt", "model.pt":  # whose arguments have a --resume now
        again = call(script, "--evaluate", path.with_name(name), cwd=tmp_path)
        assert again.out.splitlines() == result.out.splitlines()[-1:]


@pytest.mark.parametrize("script", ["dqn", "reinforce", "ppo", "sac"])  # as SIGTERM, which all are sent above
def test_ctrl_c(script, tmp_path):
    process = start(script, *flags_of(script, "0", "1000000"), cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/*/events*")), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    result = end(process, status=128 + signal.SIGINT, timeout=60)
    assert "Traceback" not in result.err and step_of(tmp_path) > 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_nan_stops_the_run_and_spares_the_checkpoint(script, tmp_path):
    """A single reward, the 700th, is NaN: the checkpoint of about 400 stays, and at about 800 none is
    written, though losses are logged every 1000 and nothing was drawn from a replay memory yet. All before
    is logged."""
    flags = "--num-envs 1 --total-timesteps 1500 --checkpoint-frequency 400".split()
    flags += "--learning-starts 1200 --buffer-size 1500".split() if script in REPLAY else []
    flags = [*SMALL[script], "--env-id", probe(script, "NaNReward"), *flags]
    result = end(start(script, *flags, cwd=tmp_path), status=1)
    assert re.search(r"^\S+ is not finite at step \d+", result.err) and len(result.err.splitlines()) == 1
    assert not EVAL.search(result.out)
    state = checkpoint(run_folder(tmp_path) / "checkpoint.pt")
    assert 400 <= state["step"] < 700
    assert [step for step, _ in events(run_folder(tmp_path))["charts/episodic_return"] if 650 <= step < 700]
    tensors = [part for name, net in state.items() if isinstance(net, dict) for part in net.values()
               if hasattr(part, "isfinite")]
    assert len(tensors) >= 6 and all(part.isfinite().all() for part in tensors)


@pytest.mark.parametrize("script", SCRIPTS)
def test_resuming_a_finished_run_only_evaluates(script, tmp_path):
    first = call(script, *SMALL[script], cwd=tmp_path).out.splitlines()[-1]
    path = run_folder(tmp_path) / "checkpoint.pt"
    before = checkpoint(path)
    assert call(script, "--resume", path, cwd=tmp_path).out.splitlines()[-1] == first
    assert differences(before, checkpoint(path)) == []
