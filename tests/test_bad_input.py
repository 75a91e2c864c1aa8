"""What would go wrong silently or late ends in one sentence that names the flag, with exit status 1. All
other errors stand as the library or the user's code raised them. In both cases nothing is written.

Each sentence is tested through one script of each kind that has it.
"""
import os
import pickle
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from common import (
    KINDS,
    SMALL,
    all_of,
    as_it_was,
    call,
    checkpoint,
    differences,
    events,
    fields,
    load,
    run_folder,
    takes,
    train,
)


def refused(result, cwd, *words):
    """One sentence with these words, and no run."""
    assert result.status == 1, result
    assert len(result.err.splitlines()) == 1 and "Traceback" not in result.err, result.err
    assert all(word in result.err for word in words), result.err
    assert result.out == "" and not (cwd / "runs").exists()


def test_nothing_is_refused_that_is_right(tmp_path):
    """The smallest and the largest that is taken; whole numbers may come as floats from Python."""
    module = load("dqn")
    edge = {"gamma": 1, "learning_rate": 0.0, "n_step": 1, "learning_starts": 2, "seed": 10**9,
            "eval_episodes": 1.0, "total_timesteps": np.float64(100), "start_e": np.float32(1),
            "num_envs": np.int64(1), "tau": 1}
    edge = {name: value for name, value in edge.items() if name in vars(module.Args())}
    folder = train(module, tmp_path, **fields("dqn") | edge)
    args = checkpoint(folder / "checkpoint.pt")["args"]
    assert type(args["total_timesteps"]) is int and type(args["gamma"]) is float


# ---- numbers

NUMBERS = """
    --num-envs 0, --num-envs -2, --total-timesteps 0, --total-timesteps 3000000000, --eval-episodes 0
    --seed -1
    --seed 3000000000, --num-threads -1, --checkpoint-frequency -5, --gamma 1.5, --gamma -0.1, --gamma nan
    --learning-rate -0.1, --learning-rate inf, --batch-size 0, --batch-size -1, --train-frequency 0
    --buffer-size 0, --n-step 0, --target-network-frequency 0, --start-e 1.1, --end-e -0.1, --tau 1.1
    --alpha -1, --exploration-fraction 1.1, --eval-epsilon 2, --adam-eps -1, --alpha inf
    --repeat-action-probability 2
    --num-steps 0, --vf-coef inf, --ent-coef -0.1, --ent-coef nan, --max-grad-norm nan, --update-epochs 0
    --gae-lambda 1.1, --clip-coef -0.1, --target-kl -1, --num-minibatches 0, --episodes-per-env 0
    --value-epochs 0, --value-learning-rate 2"""
NUMBERS = [flags.strip() for flags in re.split(r"[,\n]", NUMBERS) if flags.strip()]


@pytest.mark.parametrize("script", [*KINDS, "vpg"])
def test_numbers_out_of_range(script, tmp_path):
    tried = 0
    for flags in NUMBERS:
        if takes(script, flags):
            flag, value = flags.split()
            number = float(value) if "." in value or value in ("nan", "inf") else int(value)
            result = call(script, *SMALL[script], flag, value, cwd=tmp_path, status=None)
            refused(result, tmp_path, f"{flag} must be from", f"not {number}")
            tried += 1
    assert tried >= 17


def test_numbers_given_in_python(tmp_path):
    for field, value in ("num_envs", 2.5), ("total_timesteps", float("nan")), ("gamma", 1.01):
        with pytest.raises(SystemExit, match=f"--{field.replace('_', '-')} must be from"):
            train(load("ppo"), tmp_path, **fields("ppo") | {field: value})


def test_messages_of_the_command_line(tmp_path):
    """tyro's own, of several lines."""
    for flags in "--no-such-flag 1", "--num-envs two", "--device tpu", "--gamma":
        result = call("dqn", *flags.split(), cwd=tmp_path, status=2)
        assert flags.split()[0] in result.err and "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


FLAGS = [
    ("dqn", "--learning-starts 297", ["--learning-starts", "total-timesteps"]),
    ("dqn", "--learning-starts 5 --n-step 5", ["--learning-starts", "n-step"]),
    ("dqn", "--learning-starts 15 --num-envs 4 --n-step 3", ["--learning-starts", "num-envs"]),
    ("sac", "--learning-starts 297", ["--learning-starts", "total-timesteps"]),
    ("sac", "--learning-starts 3 --num-envs 4", ["--learning-starts", "num-envs"]),
    ("sac", "--alpha 0", ["--alpha", "--no-autotune"]),
    ("ppo", "--num-minibatches 3", ["--num-minibatches", "num-envs", "num-steps"]),
    ("ppo", "--num-minibatches 64 --no-norm-adv", ["--num-minibatches"]),
    ("ppo", "--num-minibatches 32", ["--num-minibatches", "--norm-adv"]),
    ("ppo", "--num-minibatches 1 --num-envs 1 --num-steps 1", ["--num-minibatches", "--norm-adv"]),
    ("ppo", "--norm-obs --env-id odd:Stacks-v0", ["--norm-obs", "frames"])]


@pytest.mark.parametrize("script", KINDS)
def test_flags_that_do_not_fit_together(script, tmp_path):
    for flags, words in [row[1:] for row in FLAGS if row[0] == script]:
        refused(call(script, *SMALL[script], *flags.split(), cwd=tmp_path, status=None), tmp_path, *words)


# ---- spaces

OBSERVATIONS = [
    ("probes:DictObs-v0", "Dict"), ("Blackjack-v1", "Tuple"), ("FrozenLake-v1", "Discrete(16)"),
    ("probes:SmallImage-v0", "(10, 10, 4)"), ("probes:MatrixObs-v0", "(2, 3)"),
    ("probes:FloatFrames-v0", "float32")]


@pytest.mark.parametrize("script", KINDS)
def test_observations(script, tmp_path):
    for env_id, shown in OBSERVATIONS:
        result = call(script, *SMALL[script], "--env-id", env_id, cwd=tmp_path, status=None)
        refused(result, tmp_path, f"--env-id {env_id} has observations", shown, "vectors", "(4, 84, 84)")


ACTIONS = [
    ("dqn", "Pendulum-v1", "Box"), ("dqn", "probes:TwoWheels-v0", "MultiDiscrete"),
    ("dqn", "probes:Start5-v0", "start=5"), ("ppo", "probes:Start5-v0", "start=5"),
    ("ppo", "odd:Shifted-v0", "start=[ 3 -1]"),
    ("ppo", "probes:InfiniteBox-v0", "inf"), ("ppo", "probes:HalfOpenBox-v0", "inf"),
    ("ppo", "probes:WholeBox-v0", "int64"),
    ("ppo", "probes:TupleAction-v0", "Tuple"), ("ppo", "probes:Switches-v0", "MultiBinary"),
    ("sac", "CartPole-v1", "Discrete(2)"), ("sac", "probes:TwoWheels-v0", "MultiDiscrete"),
    ("sac", "probes:InfiniteBox-v0", "inf"), ("sac", "probes:HalfOpenBox-v0", "inf"),
    ("sac", "probes:WholeBox-v0", "int64")]


@pytest.mark.parametrize("script", KINDS)
def test_actions(script, tmp_path):
    for env_id, shown in [row[1:] for row in ACTIONS if row[0] == script]:
        result = call(script, *SMALL[script], "--env-id", env_id, cwd=tmp_path, status=None)
        refused(result, tmp_path, f"--env-id {env_id} has actions", shown, "this script takes")


def test_frames_for_sac(tmp_path):
    result = call("sac", *SMALL["sac"], "--env-id", "odd:Stacks-v0", cwd=tmp_path, status=None)
    refused(result, tmp_path, "--env-id odd:Stacks-v0", "frames", "takes vectors")


@pytest.mark.parametrize("script", all_of(["dqn", "per_dqn"]))
def test_frames_that_are_no_history(script, tmp_path):
    """Stacks that begin with copies of the first frame, and four channels that are no frames: the replay
    memory would rebuild other ones (Gymnasium#829, acme#287)."""
    for env_id in "odd:Padded-v0", "odd:Channels-v0":
        result = call(script, *SMALL[script], "--env-id", env_id, cwd=tmp_path, status=None)
        refused(result, tmp_path, f"--env-id {env_id}", "must be zeros", "padding_type='zero'")


def test_old_names_of_games(tmp_path):
    for script in "dqn", "ppo":
        result = call(script, *SMALL[script], "--env-id", "PongNoFrameskip-v4", cwd=tmp_path, status=None)
        refused(result, tmp_path, "--env-id PongNoFrameskip-v4", "ALE/Pong-v5")


# ---- memory

def small_machine(monkeypatch, module, size, cgroup=None):
    """As if the machine had `size` bytes, and the container this limit; no larger array may be made."""
    pages, path = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": int(size)}, "/sys/fs/cgroup/memory.max"
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(module, "Path", lambda *parts: (cgroup or Path("/no/such/file")) if parts == (path,)
                        else Path(*parts))
    zeros = np.zeros

    def guarded(shape, *args, **kwargs):
        assert np.prod(shape, dtype=float) < size, "allocated"
        return zeros(shape, *args, **kwargs)
    monkeypatch.setattr(np, "zeros", guarded)


@pytest.mark.parametrize("script", ["dqn", "sac"])
def test_replay_larger_than_memory(script, tmp_path, monkeypatch):
    """All arrays count: of CartPole's rows, 16 bytes of observation are about half; frames have 84 * 84."""
    module, frames = load(script), ["--env-id", "odd:Stacks-v0", "--num-threads", 1]
    cases = [(frames, 64e9, 707), ([], 2e9, 3.0)] if script == "dqn" else [([], 2e9, 3.6)]
    for flags, size, gigabytes in cases:
        with monkeypatch.context() as patch:
            small_machine(patch, module, size)
            with pytest.raises(SystemExit, match=r"--buffer-size takes .* GB, .* memory has .* GB") as error:
                train(module, tmp_path, **fields(script, *flags, "--buffer-size", 100_000_000))
        taken, there = map(float, re.findall(r"([\d.]+) GB", str(error.value)))
        assert taken == pytest.approx(gigabytes, rel=0.05) and there == size / 1e9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["dqn", "sac"])
def test_replay_larger_than_a_container(script, tmp_path, monkeypatch):
    """Whose limit is a number of bytes, or max."""
    module, limit = load(script), tmp_path / "memory.max"
    (tmp_path / "run").mkdir()
    small_machine(monkeypatch, module, 64e9, limit)
    limit.write_text("20000000\n")
    with pytest.raises(SystemExit, match="memory has 0.0 GB"):
        train(module, tmp_path / "run", **fields(script, "--buffer-size", 1_000_000))
    assert list((tmp_path / "run").iterdir()) == []
    limit.write_text("max\n")
    train(module, tmp_path / "run", **fields(script, "--buffer-size", 100_000))


# ---- rewards

@pytest.mark.parametrize("script", KINDS)
def test_nan_stops_the_run_and_spares_the_checkpoint(script, tmp_path):
    """A single reward, the 700th, is NaN: the checkpoint of about 400 stays, and at about 800 none is
    written, though nothing was drawn from a replay memory yet. All before is logged."""
    flags = ["--num-envs", 1, "--total-timesteps", 1500, "--checkpoint-frequency", 400]
    flags += ["--learning-starts", 1200, "--buffer-size", 1500] if script != "ppo" else []
    flags += ["--env-id", f"probes:NaNReward{'Box' if script == 'sac' else ''}-v0"]
    result = call(script, *SMALL[script], *flags, cwd=tmp_path, status=1)
    assert re.search(r"^NaN or infinity at step 8\d\d: stopped", result.err, re.M), result.err
    assert "eval" not in result.out and "Traceback" not in result.err
    folder = run_folder(tmp_path)
    state = checkpoint(folder / "checkpoint.pt")
    assert 400 <= state["step"] < 700
    assert [step for step, _ in events(folder)["charts/episodic_return"] if 650 <= step < 700]
    assert sorted(path.suffix for path in folder.iterdir() if "events" not in path.name) == [".pt"]


def test_infinity_is_not_saved(tmp_path):
    """Nor NaN, however deep; the file that was there stays. Whole numbers are not looked at."""
    module, x = load("dqn"), torch.zeros(2)
    part = SimpleNamespace(state_dict=lambda: {"count": torch.tensor(3), "state": {0: {"x": x}}})
    with as_it_was(tmp_path):
        run = module.Run(module.Args(), {}, {})
        run.save("checkpoint.pt", 1, {"part": part})
        for value in np.inf, -np.inf, np.nan:
            x[1] = value
            with pytest.raises(SystemExit, match="NaN or infinity at step 2: stopped"):
                run.save("checkpoint.pt", 2, {"part": part})
        run.bar.close()
        run.writer.close()
    assert checkpoint(run_folder(tmp_path) / "checkpoint.pt")["step"] == 1


# ---- files

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


def missing(path, good):
    pass


def flipped(path, good):
    """One bit of a weight."""
    data = bytearray(good.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.fixture(scope="module", params=KINDS)
def good(request, tmp_path_factory):
    """(script, folder of a small run)."""
    cwd = tmp_path_factory.mktemp("good")
    call(request.param, *SMALL[request.param], cwd=cwd)
    return request.param, run_folder(cwd)


def test_damaged_file(good, tmp_path):
    script, run_of_it = good
    makers = cut_short, empty, text, folder, pickled, missing, flipped
    for make in makers:
        cwd = tmp_path / make.__name__
        cwd.mkdir()
        make(cwd / "bad.pt", run_of_it / "checkpoint.pt")
        before = list(cwd.iterdir())
        for flag in "--resume", "--evaluate":
            result = call(script, flag, "bad.pt", cwd=cwd, status=None)
            refused(result, cwd, "bad.pt is missing, damaged or no checkpoint")
        assert list(cwd.iterdir()) == before  # no code has run, no event file was made


ONE = pytest.mark.parametrize("good", ["ppo"], indirect=True)  # for what is plumbing alone


@ONE
def test_any_flipped_bit_is_found_or_harmless(good, tmp_path):
    """Everywhere in the file: an error, or the same numbers."""
    script, run_of_it = good
    module, path = load(script), run_of_it / "model.pt"
    data, want, bad, found = path.read_bytes(), checkpoint(path), tmp_path / "bad.pt", 0
    for at in range(len(data) // 50, len(data), len(data) // 25):
        bad.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1:])
        try:
            assert differences(module.load(module.Args(evaluate=str(bad))), want) == []
        except AssertionError:
            raise
        except (SystemExit, Exception):
            found += 1
    assert found >= 15


@ONE
def test_a_malicious_file_runs_nothing(good, tmp_path, monkeypatch):
    """PyTorch's own error says what it refused to load."""
    script, run_of_it = good
    torch.save({**checkpoint(run_of_it / "checkpoint.pt"), "more": Malicious()}, tmp_path / "bad.pt")
    for flag in "--resume", "--evaluate":
        with pytest.raises(pickle.UnpicklingError, match="mkdir"):
            call(script, flag, "bad.pt", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]
    monkeypatch.chdir(tmp_path)  # with other arguments it would have run
    torch.load("bad.pt", weights_only=False)
    assert (tmp_path / "owned").exists()


@ONE
def test_file_of_another_script(good, tmp_path):
    script, run_of_it = good
    state = checkpoint(run_of_it / "checkpoint.pt")
    torch.save({**state, "script": "other"}, tmp_path / "bad.pt")
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pt")
    for flag in "--resume", "--evaluate":
        result = call(script, flag, "bad.pt", cwd=tmp_path, status=None)
        refused(result, tmp_path, f"bad.pt is no checkpoint of {script}.py, but of other")
        result = call(script, flag, "weights.pt", cwd=tmp_path, status=None)
        refused(result, tmp_path, f"weights.pt is no checkpoint of {script}.py")


def unchanged(run_of_it, action):
    before = {path: path.read_bytes() for path in run_of_it.iterdir()}
    returned = action()
    assert before == {path: path.read_bytes() for path in run_of_it.iterdir()}
    return returned


def test_a_model_is_no_checkpoint(good, tmp_path):
    script, run_of_it = good
    result = unchanged(run_of_it, lambda: call(script, "--resume", run_of_it / "model.pt", cwd=tmp_path,
                                               status=None))
    refused(result, tmp_path, " lacks ", "optimizer", "--resume takes a checkpoint.pt")


def test_a_budget_that_is_passed(good, tmp_path):
    """Unless the run was finished, and is only to be evaluated again (SB3#1277)."""
    script, run_of_it = good
    flags = ["--resume", run_of_it / "checkpoint.pt", "--total-timesteps", "200"]
    result = unchanged(run_of_it, lambda: call(script, *flags, cwd=tmp_path, status=None))
    refused(result, tmp_path, "--total-timesteps must be above 3")


RESUMED = {
    "dqn": [("--num-envs 5", "--num-envs"), ("--n-step 4", "--n-step"), ("--env-id Acrobot-v1", "shape")],
    "ppo": [("--norm-obs", "norm"), ("--env-id Acrobot-v1", "shape")],
    "sac": [("--buffer-size 100", "--buffer-size"), ("--env-id Swimmer-v5", "shape")]}


def test_what_resuming_cannot_change(good, tmp_path):
    """An error that names what differs, before anything is written."""
    script, run_of_it = good

    def resume(flags, word):
        with pytest.raises((ValueError, RuntimeError), match=word):
            call(script, "--resume", run_of_it / "checkpoint.pt", *flags.split(), cwd=tmp_path)
    for flags, word in RESUMED[script]:
        unchanged(run_of_it, lambda flags=flags, word=word: resume(flags, word))
    assert list(tmp_path.iterdir()) == []


def test_evaluating_needs_no_memory_for_the_buffer(good, tmp_path, monkeypatch):
    """Trained on a large machine, evaluated on a small one; from a machine with a GPU, on one without."""
    script, run_of_it = good
    module, given = load(script), []
    small_machine(monkeypatch, module, 1000)
    read = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **more: given.append(more) or read(*args, **more))
    path = str(run_of_it / "model.pt")
    with as_it_was(tmp_path):
        module.train(module.Args(**fields(script) | {"evaluate": path}))
    assert given == [{"map_location": "cpu", "weights_only": True}]


# ---- writing

def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    """On a full disk. No part of the new one stays."""
    module, save, written = load("ppo"), torch.save, []

    def full(state, file):
        if written:
            file.write(b"half")
            raise OSError("no space left on device")
        save(state, file)
        written.append(state["step"])
    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match="no space"):
        train(module, tmp_path, **fields("ppo"))
    names = sorted(path.name for path in run_folder(tmp_path).iterdir() if "events" not in path.name)
    assert names == ["checkpoint.pt"]
    assert checkpoint(run_folder(tmp_path) / "checkpoint.pt")["step"] == written[0] == 0


def test_runs_share_no_folder(tmp_path, monkeypatch):
    """Of one script and seed, begun at once (cleanrl#256, imitation#78): names differ by microseconds, and
    where not even those do, the second run ends and leaves the first one's folder alone."""
    module, started = load("dqn"), threading.Barrier(4)

    def begin():
        started.wait()
        module.Run(module.Args(), {}, {}).writer.close()
    with as_it_was(tmp_path):
        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(tmp_path.glob("runs/*"))) == 4
        monkeypatch.setattr("time.time", lambda: 1234.5)
        module.Run(module.Args(), {}, {}).writer.close()
        (first,) = tmp_path.glob("runs/*__1234.5*")
        before = list(first.iterdir())
        with pytest.raises(FileExistsError):
            module.Run(module.Args(), {}, {})
        assert list(first.iterdir()) == before


# ---- errors that stand, with their traceback

CANNOT_BE_MADE = [
    ("Nope-v0", gym.error.NameNotFound, "Nope"), ("CartPole-v99", gym.error.VersionNotFound, "`v99`"),
    ("probes:Nope-v0", gym.error.NameNotFound, "Nope"), ("nomodule:Nope-v0", ImportError, "nomodule"),
    ("odd:Asserts-v0", AssertionError, "no licence"), ("odd:LacksKey-v0", KeyError, "wheels")]


@pytest.mark.parametrize("script", KINDS)
def test_an_environment_that_cannot_be_made(script, tmp_path):
    """The cause is the library's or the user's own (Gymnasium#556)."""
    for env_id, error, words in CANNOT_BE_MADE:
        with pytest.raises(error, match=words):
            call(script, *SMALL[script], "--env-id", env_id, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is there")
def test_device_that_is_not_there(tmp_path):
    with pytest.raises((AssertionError, RuntimeError), match="(?i)cuda"):
        call("dqn", *SMALL["dqn"], "--device", "cuda", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match="runs"):
        call("dqn", *SMALL["dqn"], cwd=tmp_path)
