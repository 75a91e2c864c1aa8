"""Bad input ends in one sentence that names the flag, with exit status 2, before anything is written."""
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from common import (
    PIXELS,
    POLICY,
    PONG,
    REPLAY,
    SCRIPTS,
    SMALL,
    VALUE,
    call,
    checkpoint,
    run,
    run_folder,
    takes,
)

# flags -> words that the message must have; for all scripts
ANY = {
    "--env-id Nope-v0": ["--env-id", "Nope"],
    "--env-id CartPole-v99": ["--env-id", "CartPole-v99"],
    "--env-id probes:Nope-v0": ["--env-id", "Nope"],
    "--env-id nomodule:Nope-v0": ["--env-id", "nomodule"],
    "--env-id ALE/Nope-v5": ["--env-id", "ALE/Nope-v5"],
    "--env-id probes:DictObs-v0": ["--env-id", "Dict"],
    "--env-id Blackjack-v1": ["--env-id", "Tuple"],
    "--env-id FrozenLake-v1": ["--env-id", "Discrete(16)"],
    "--env-id probes:SmallImage-v0": ["--env-id", "(10, 10, 4)"],
    "--env-id probes:MatrixObs-v0": ["--env-id", "(2, 3)"],
    "--env-id probes:FloatFrames-v0": ["--env-id", "float32"],
    "--num-envs 0": ["--num-envs", "0"],
    "--num-envs -2": ["--num-envs", "-2"],
    "--total-timesteps 0": ["--total-timesteps"],
    "--eval-episodes 0": ["--eval-episodes"],
    "--seed -1": ["--seed", "-1"],
    "--seed 3000000000": ["--seed", "3000000000"],
    "--num-threads -1": ["--num-threads"],
    "--num-threads 1025": ["--num-threads", "1024"],
    "--env-id probes:Unseen-v0 --capture-video": ["--env-id", "filmed"],
    "--checkpoint-frequency -5": ["--checkpoint-frequency"],
    "--gamma 1.5": ["--gamma", "1.5"],
    "--gamma nan": ["--gamma", "nan"],
    "--learning-rate -0.1": ["--learning-rate"],
    "--resume nowhere.pt": ["nowhere.pt"],
    "--evaluate nowhere.pt": ["nowhere.pt"],
}
VALUE_ONLY = {
    "--env-id probes:SmallImage-v0": ["--env-id", "(10, 10, 4)", "(4, 84, 84)"],
    "--env-id Pendulum-v1": ["--env-id", "Box", "Discrete"],
    "--env-id probes:InfiniteBox-v0": ["--env-id", "Box", "Discrete"],
    "--env-id probes:TwoWheels-v0": ["--env-id", "MultiDiscrete", "Discrete"],
    "--repeat-action-probability 2": ["--repeat-action-probability"],
    "--n-step 0": ["--n-step"],
    "--target-network-frequency 0": ["--target-network-frequency"],
    "--exploration-fraction 1.1": ["--exploration-fraction"],
    "--learning-starts 5 --n-step 5": ["--learning-starts", "n-step"],
    "--learning-starts 12 --num-envs 4 --n-step 3": ["--learning-starts", "num-envs"],
}
SAC_ONLY = {
    "--env-id CartPole-v1": ["--env-id", "Discrete(2)", "dqn.py", "ppo.py"],
    "--env-id probes:TwoWheels-v0": ["--env-id", "MultiDiscrete", "ppo.py"],
    "--env-id probes:InfiniteBox-v0": ["--env-id", "inf", "finite"],
    "--env-id probes:HalfOpenBox-v0": ["--env-id", "inf", "finite"],
    "--env-id probes:WholeBox-v0": ["--env-id", "int64"],
    "--alpha 0": ["--alpha", "0"],
    "--alpha nan --no-autotune": ["--alpha", "nan"],
    "--alpha inf": ["--alpha", "inf"],
    "--tau 1.1": ["--tau", "1.1"],
    "--learning-starts 7 --num-envs 4": ["--learning-starts", "num-envs"],
}
REPLAY_ONLY = {
    "--batch-size -1": ["--batch-size", "-1"],
    "--train-frequency 0": ["--train-frequency"],
    "--buffer-size 10 --batch-size 11": ["--buffer-size", "--batch-size"],
    "--num-envs 20 --buffer-size 10 --batch-size 8": ["--buffer-size", "--num-envs"],
    "--learning-starts 301": ["--learning-starts", "--total-timesteps"],
}
POLICY_ONLY = {
    "--env-id probes:InfiniteBox-v0": ["--env-id", "inf", "bounded"],
    "--env-id probes:HalfOpenBox-v0": ["--env-id", "inf", "bounded"],
    "--env-id probes:WideTorques-v0": ["--env-id", "(2, 1)"],
    "--env-id probes:WholeBox-v0": ["--env-id", "int64"],
    "--env-id probes:TupleAction-v0": ["--env-id", "Tuple"],
    "--env-id probes:Switches-v0": ["--env-id", "MultiBinary"],
    "--env-id probes:SmallImage-v0": ["--env-id", "(10, 10, 4)", "(4, 84, 84)"],
    "--repeat-action-probability 2": ["--repeat-action-probability"],
    "--episodes-per-env 0": ["--episodes-per-env"],
    "--value-epochs 0": ["--value-epochs"],
    "--value-learning-rate 2": ["--value-learning-rate"],
    "--ent-coef -0.1": ["--ent-coef"],
    "--ent-coef nan": ["--ent-coef"],
    "--num-steps 0": ["--num-steps"],
    "--vf-coef inf": ["--vf-coef"],
    "--max-grad-norm nan": ["--max-grad-norm"],
    "--norm-obs --env-id ALE/Pong-v5": ["--norm-obs", "ALE/Pong-v5"],
    "--norm-obs --env-id probes:Frames-v0": ["--norm-obs", "Frames"],
    "--update-epochs 0": ["--update-epochs"],
    "--gae-lambda 1.1": ["--gae-lambda"],
    "--clip-coef -0.1": ["--clip-coef"],
    "--target-kl -1": ["--target-kl"],
    "--target-kl nan": ["--target-kl"],
    "--num-minibatches 3": ["--num-minibatches", "--num-envs", "--num-steps", "32"],
    "--num-minibatches 64 --no-norm-adv": ["--num-minibatches", "32"],
    "--num-minibatches 32": ["--num-minibatches", "--no-norm-adv"],
    "--num-minibatches 1 --num-envs 1 --num-steps 1": ["--num-minibatches", "--no-norm-adv"],
}
CASES = [(script, flags, words) for script in SCRIPTS for flags, words in {
    **ANY, **(VALUE_ONLY if script in VALUE else {}), **(REPLAY_ONLY if script in REPLAY else {}),
    **(SAC_ONLY if script == "sac" else {}), **(POLICY_ONLY if script in POLICY else {})}.items()
    if takes(script, flags)]


def refused(result, cwd, *words):
    """One sentence with these words, and no run."""
    assert result.status == 2, result
    assert len(result.err.splitlines()) == 1 and "Traceback" not in result.err, result.err
    assert all(word in result.err for word in words), result.err
    assert result.out == "" and not (cwd / "runs").exists()


@pytest.mark.parametrize("script, flags, words", CASES)
def test_refused(script, flags, words, tmp_path):
    refused(call(script, *SMALL[script], *flags.split(), cwd=tmp_path, status=None), tmp_path, *words)


@pytest.mark.parametrize("script", ["dqn", "ppo", "sac"])  # the others share the text
def test_refused_as_its_users_see_it(script, tmp_path):
    """In a process of its own nothing else comes on standard error, such as a library's warning."""
    refused(run(script, "--env-id", "PongNoFrameskip-v4", cwd=tmp_path, status=None), tmp_path, "ALE/Pong-v5")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it can be filmed")
@pytest.mark.parametrize("script", ["ppo", "sac"])
def test_mujoco_without_a_display(script, tmp_path, monkeypatch):
    for name in "DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM":
        monkeypatch.delenv(name, raising=False)
    result = run(script, "--env-id", "Hopper-v5", "--capture-video", cwd=tmp_path, status=None)
    refused(result, tmp_path, "MUJOCO_GL", "library")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flags", ["--no-such-flag 1", "--num-envs two", "--device tpu", "--gamma"])
def test_messages_of_the_command_line(script, flags, tmp_path):
    """tyro's own, of several lines."""
    result = call(script, *flags.split(), cwd=tmp_path, status=2)
    assert flags.split()[0] in result.err and "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_device_that_is_not_there(script, device, tmp_path, monkeypatch):
    monkeypatch.setattr(f"torch.{'cuda' if device == 'cuda' else 'backends.mps'}.is_available", lambda: False)
    result = call(script, *SMALL[script], "--device", device, cwd=tmp_path, status=None)
    refused(result, tmp_path, "--device", device)


@pytest.mark.parametrize("script", [script for script in REPLAY if script in PIXELS])
def test_buffer_larger_than_memory(script, tmp_path, monkeypatch):
    """100 million frames of 84 x 84 bytes; the size is in the message, and nothing is allocated."""
    limit_memory(monkeypatch, 64e9)
    flags = [*PONG, "--buffer-size", "100000000"]
    result = call(script, *SMALL[script], *flags, cwd=tmp_path, status=None)
    refused(result, tmp_path, "--buffer-size", "GB")
    assert any(700 < float(word) < 800 for word in result.err.split() if word.replace(".", "", 1).isdigit())


def limit_memory(monkeypatch, size):
    """As if the machine had `size` bytes; and no array of more elements than that may be made."""
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": int(size)}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    zeros = np.zeros

    def guarded(shape, *args, **kwargs):
        assert np.prod(shape, dtype=float) < size, "allocated"
        return zeros(shape, *args, **kwargs)
    monkeypatch.setattr(np, "zeros", guarded)


@pytest.mark.parametrize("script", REPLAY)
def test_buffer_of_vectors_larger_than_memory(script, tmp_path, monkeypatch):
    """All arrays count: of CartPole's rows, 16 bytes of observation are about half."""
    limit_memory(monkeypatch, 20e6)
    result = call(script, *SMALL[script], "--buffer-size", "1000000", cwd=tmp_path, status=None)
    refused(result, tmp_path, "--buffer-size", "GB")


def test_evaluating_needs_no_memory_for_the_buffer(good, tmp_path, monkeypatch):
    """Trained on a large machine, evaluated on a small one."""
    script, run_of_it = good
    limit_memory(monkeypatch, 1000)
    result = call(script, "--evaluate", run_of_it / "model.pt", cwd=tmp_path, status=None)
    assert result.status == 0, result.err


# ---- missing extras

@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("module, flags", [("moviepy", "--capture-video"), ("pygame", "--capture-video"),
                                           ("ale_py", "--env-id ALE/Pong-v5")])
def test_missing_extra(script, module, flags, tmp_path, monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    result = call(script, *SMALL[script], *flags.split(), cwd=tmp_path, status=None)
    refused(result, tmp_path, "pip install")


# ---- checkpoints

class Malicious:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def cut_short(path, good):
    path.write_bytes(good.read_bytes()[:-1000])


def empty(path, good):
    path.touch()


def text(path, good):
    path.write_text("hello")


def folder(path, good):
    path.mkdir()


def pickled(path, good):
    path.write_bytes(pickle.dumps(Malicious()))


def malicious(path, good):
    torch.save({**checkpoint(good), "more": Malicious()}, path)


def a_list(path, good):
    torch.save([1, 2], path)


def weights_only(path, good):
    torch.save({"weight": torch.ones(2)}, path)


def foreign(path, good):
    torch.save({**checkpoint(good), "script": "other"}, path)


def without_arguments(path, good):
    state = checkpoint(good)
    del state["args"]
    torch.save(state, path)


def other_arguments(path, good):
    torch.save({**checkpoint(good), "args": {"no_such_argument": 1}}, path)


@pytest.fixture(scope="module", params=SCRIPTS)
def good(request, tmp_path_factory):
    """(script, folder of a small run)."""
    cwd = tmp_path_factory.mktemp("good")
    call(request.param, *SMALL[request.param], cwd=cwd)
    return request.param, run_folder(cwd)


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize("make", [cut_short, empty, text, folder, pickled, malicious, a_list, weights_only,
                                  foreign, without_arguments, other_arguments])
def test_checkpoint(good, make, flag, tmp_path):
    script, run_of_it = good
    make(tmp_path / "bad.pt", run_of_it / "checkpoint.pt")
    result = call(script, flag, "bad.pt", cwd=tmp_path, status=None)
    refused(result, tmp_path, "bad.pt", *["other.py"] * (make is foreign))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]  # no code has run, no event file was made


def test_a_malicious_file_would_run_code(tmp_path, monkeypatch):
    """What the test above relies on."""
    monkeypatch.chdir(tmp_path)
    pickled(tmp_path / "bad.pt", None)
    pickle.loads((tmp_path / "bad.pt").read_bytes())
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("flags, words", [
    ("--resume {}/model.pt", ["model.pt", "checkpoint.pt"]),
    ("--resume {0}/checkpoint.pt --evaluate {0}/checkpoint.pt", ["--resume", "--evaluate"]),
    ("--resume {}/checkpoint.pt --num-envs 5", ["--num-envs", "checkpoint"]),
    ("--resume {}/checkpoint.pt --env-id Acrobot-v1", ["--env-id"]),
    ("--evaluate {}/checkpoint.pt --env-id Acrobot-v1", ["--env-id"]),
])
def test_what_a_checkpoint_cannot_do(good, flags, words, tmp_path):
    script, run_of_it = good
    before = {path: path.read_bytes() for path in run_of_it.iterdir()}
    result = call(script, *flags.format(run_of_it, run_of_it).split(), cwd=tmp_path, status=None)
    refused(result, tmp_path, *words)
    assert before == {path: path.read_bytes() for path in run_of_it.iterdir()}


@pytest.mark.parametrize("flags", ["--n-step 2", "--buffer-size 100", "--optimizer sgd", "--norm-obs",
                                   "--norm-reward", "--num-minibatches 3", "--clip-reward on"])
def test_what_resuming_cannot_change(good, flags, tmp_path):
    """Rewards are clipped before they are stored, so a replay memory has one kind of them."""
    script, run_of_it = good
    if not takes(script, flags) or "clip" in flags and script not in VALUE:
        pytest.skip("no such flag, or one that may change")
    result = call(script, "--resume", run_of_it / "checkpoint.pt", *flags.split(), cwd=tmp_path, status=None)
    refused(result, tmp_path, flags.split()[0])


@pytest.mark.parametrize("script", VALUE + POLICY)
@pytest.mark.parametrize("vector", ["ByteVector", "IntVector"])
def test_vectors_of_whole_numbers_run_or_are_refused(script, vector, tmp_path):
    """Bytes may be a vector (an Atari game's RAM), too, not only pixels."""
    result = call(script, *SMALL[script], "--env-id", f"probes:{vector}-v0", cwd=tmp_path, status=None)
    if result.status:
        refused(result, tmp_path, "--env-id")
