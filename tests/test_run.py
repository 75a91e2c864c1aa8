"""What a run does around its learning: what it shows, logs and leaves, and where its flags go.

The plumbing is one text in all scripts (test_copies): most of it is tested through one script of each kind.
"""
import contextlib
import dataclasses
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from common import (
    EPISODIC,
    EVAL,
    KINDS,
    ONE_GAME,
    PIXELS,
    POLICY,
    PONG,
    REPLAY,
    ROOT,
    SCRIPTS,
    SMALL,
    TESTS,
    VALUE,
    all_of,
    as_it_was,
    call,
    checkpoint,
    differences,
    events,
    fields,
    load,
    probe,
    run_folder,
    takes,
    train,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

NETS = {"reinforce": {"policy"}, "vpg": {"policy", "critic"}, "a2c": {"net"}, "ppo": {"net"},
        "sac": {"policy"}, **{script: {"q_net"} for script in VALUE}}
STACKS = ["--env-id", "odd:Stacks-v0"]  # frames


def evaluation(out: str) -> tuple[float, float, int]:
    """Mean, standard deviation and number from the last line of standard output."""
    match = EVAL.fullmatch(out.splitlines()[-1])
    assert match and len(EVAL.findall(out)) == 1, out
    return float(match[1]), float(match[2]), int(match[3])


def spy(monkeypatch, owner, name, note):
    """From now on note(...) sees the arguments of every call."""
    original = getattr(owner, name)

    def watched(*args, **kwargs):
        note(*args, **kwargs)
        return original(*args, **kwargs)
    monkeypatch.setattr(owner, name, watched)


def odd(script: str, name: str) -> str:
    return f"odd:{name}{'Box' if script == 'sac' else ''}-v0"


# ---- a run and what it leaves

@pytest.fixture(scope="module", params=all_of(SCRIPTS))
def small(request, tmp_path_factory):
    """A small run: (script, its folder, standard output, standard error)."""
    script, cwd = request.param, tmp_path_factory.mktemp(request.param)
    result = call(script, *SMALL[script], "--checkpoint-frequency", "100", cwd=cwd)
    return script, cwd, result.out, result.err


def test_a_run_and_what_it_leaves(small):
    script, cwd, out, err = small
    folder = run_folder(cwd)
    lines = out.splitlines()
    assert lines[:-1] == [f"run folder: {folder.relative_to(cwd)}", "evaluating 2 episodes"]
    assert evaluation(out)[2] == 2
    assert "Warning" not in err and "nan" not in err
    assert err.count("\r") <= 3  # no terminal, so a line now and then
    assert re.fullmatch(rf"[\w-]+__{script}__1__\d+\.\d{{6}}", folder.name)
    kinds = sorted(path.name.partition(".tfevents")[0] for path in folder.iterdir())
    assert kinds == ["checkpoint.pt", "events.out", "model.pt"]
    state = checkpoint(folder / "checkpoint.pt")
    assert state["step"] >= 300 and state["args"]["eval_episodes"] == 2 and state["script"] == script
    if script in REPLAY:  # 200 that can be drawn, and in the DQN family the newest n
        n_step = 0 if script == "sac" else state["args"]["n_step"]
        assert len(state["buffer"]["reward"]) == 200 + n_step and state["buffer"]["count"] == state["step"]
    model = checkpoint(folder / "model.pt")  # networks, no buffer
    assert set(model) == {"script", "args", "step", *NETS[script]}
    for net in NETS[script]:
        assert differences(model[net], state[net]) == []
    assert list(cwd.iterdir()) == [cwd / "runs"]


def test_evaluate_prints_the_same_lines(small):
    """From either file; and writes nothing."""
    script, cwd, out, _ = small
    before = {path: path.stat().st_mtime_ns for path in cwd.rglob("*")}
    for name in "checkpoint.pt", "model.pt":
        result = call(script, "--evaluate", run_folder(cwd) / name, cwd=cwd)
        assert result.out.splitlines() == out.splitlines()[1:] and result.err == ""
    result = call(script, "--evaluate", run_folder(cwd) / name, "--eval-episodes", "3", cwd=cwd)
    assert evaluation(result.out)[2] == 3
    assert {path: path.stat().st_mtime_ns for path in cwd.rglob("*")} == before


def test_evaluation_is_of_whole_episodes(tmp_path):
    """Side by side, each from a seed of its own to its first end, whatever comes after."""
    module, lengths = load("dqn"), []
    args = module.Args(seed=3, eval_episodes=4)
    with as_it_was(tmp_path), contextlib.redirect_stdout(io.StringIO()) as shown:
        mean = module.evaluate(args, lambda obs: np.int64(obs[:, 2] > 0))
    for i in range(4):
        env, ended = gym.make("CartPole-v1"), False
        obs, _ = env.reset(seed=2**30 + 3 + i)
        lengths.append(0)
        while not ended:
            obs, _, terminated, truncated, _ = env.step(int(obs[2] > 0))
            ended = terminated or truncated
            lengths[-1] += 1
    assert len(set(lengths)) > 1 and mean == np.mean(lengths)
    assert evaluation(shown.getvalue()) == (np.mean(lengths), round(np.std(lengths), 2), 4)


def test_train_reads_the_file_itself(small):
    """In a notebook: train(Args(evaluate=path)), without its content. It returns the mean of the line."""
    script, cwd, out, _ = small
    module, folder = load(script), run_folder(cwd)
    with as_it_was(cwd), contextlib.redirect_stdout(io.StringIO()) as shown:
        mean = module.train(module.Args(**fields(script) | {"evaluate": str(folder / "model.pt")}))
    assert shown.getvalue().splitlines() == out.splitlines()[1:]
    assert abs(mean - evaluation(out)[0]) <= 0.005 + 1e-9


@pytest.mark.parametrize("script", KINDS)
def test_train_in_a_thread_twice(script, tmp_path):
    """It returns the mean, the same one each time, and leaves the process as it was: every signal has the
    handler it had, also while it trains."""
    module, means, during = load(script), [], set()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    original = module.evaluate

    def watched(*args):
        during.add(all(signal.getsignal(number) == signals[number] for number in signals))
        return original(*args)

    def work():
        means.append(module.train(module.Args(**fields(script))))
    try:
        module.evaluate = watched
        with as_it_was(tmp_path), contextlib.redirect_stdout(io.StringIO()) as shown:
            for _ in range(2):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
        assert {number: signal.getsignal(number) for number in signals} == signals and during == {True}
    finally:
        module.evaluate = original
        signal.signal(signal.SIGINT, before)
    assert len(means) == 2 and means[0] == means[1]
    lines = EVAL.findall(shown.getvalue())
    assert [f"{mean:.2f}" for mean in means] == [line[0] for line in lines]
    assert len(list(tmp_path.glob("runs/*"))) == 2


FLAGS = ["--num-envs 3", "--seed 7 --num-threads 1", "--eval-episodes 1 --gamma 0.9", "--device cpu",
         "--checkpoint-frequency 0", "--clip-reward on", "--clip-reward off"]
REPLAY_FLAGS = ["--train-frequency 1 --batch-size 1 --learning-starts 299", "--num-envs 7 --buffer-size 20"]
VALUE_FLAGS = ["--n-step 3 --num-envs 3", "--n-step 5 --buffer-size 16", "--target-network-frequency 1",
               "--start-e 0.5 --end-e 0 --exploration-fraction 0"]
SAC_FLAGS = ["--no-autotune", "--no-autotune --alpha 2", "--no-autotune --alpha 0",
             "--alpha 0.01 --num-envs 3", "--tau 1"]
_pendulum = "--env-id Pendulum-v1"
POLICY_FLAGS = [
    "--num-envs 1", "--env-id probes:TwoWheels-v0", f"{_pendulum} --num-envs 3", "--reduction mean",
    "--optimizer sgd", "--episodes-per-env 1 --num-envs 1", "--baseline mean --ent-coef 0",
    "--baseline none --ent-coef 1", "--value-epochs 1 --value-learning-rate 1", "--num-steps 1 --num-envs 4",
    f"{_pendulum} --norm-obs", f"{_pendulum} --norm-reward --num-envs 1",
    f"{_pendulum} --norm-obs --norm-reward --clip-reward on", "--norm-obs --checkpoint-frequency 100",
    "--vf-coef 0 --max-grad-norm 0", "--clip-vloss", "--target-kl 1e-9", "--no-norm-adv", "--no-anneal-lr",
    "--num-minibatches 1 --update-epochs 1 --gae-lambda 1", "--num-minibatches 32 --no-norm-adv",
    "--num-minibatches 16 --clip-coef 0"]
CASES = [(script, flags) for script in SCRIPTS for flags in FLAGS + REPLAY_FLAGS * (script in REPLAY)
         + VALUE_FLAGS * (script in VALUE) + SAC_FLAGS * (script == "sac") + POLICY_FLAGS * (script in POLICY)
         if takes(script, flags)]


@pytest.mark.slow
@pytest.mark.parametrize("script, flags", CASES)
def test_flags(script, flags, tmp_path):
    """Each flag that changes a branch."""
    result = call(script, *SMALL[script], *flags.split(), cwd=tmp_path)
    evaluation(result.out)
    assert "Warning" not in result.err
    assert (run_folder(tmp_path) / "model.pt").exists()


@pytest.mark.parametrize("script", all_of(SCRIPTS))
def test_help_shows_docstring_and_every_flag(script, tmp_path):
    text = call(script, "--help", cwd=tmp_path).out
    for section in ("Paper", "Adds", "Where", "Departs", "Run"):
        assert re.search(rf"^ *{section}:", text, re.M), section
    about, _, text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split()).partition(" options ")
    assert about.endswith(" ".join(load(script).__doc__.split()))
    for field in dataclasses.fields(load(script).Args):
        flag = f"--{field.name.replace('_', '-')}"
        part = re.search(rf"{flag}[ ,](.+?)\(default: ([^)]*)\)", text)
        assert part and len(part[1].split()) >= 3, flag
    assert "changed from" not in text
    assert list(tmp_path.iterdir()) == []


def test_help_has_the_lines_of_the_docstring(tmp_path):
    """Equations and lists are not joined into one paragraph."""
    text = call("ppo", "--help", cwd=tmp_path).out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in load("ppo").__doc__.splitlines():
        if line.startswith("    ") and len(line) < 76:
            assert any(" ".join(line.split()) in shown for shown in lines), line


def test_importing_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--no-such-flag"])
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    torch.set_num_threads(2)
    draw, out, err = torch.get_rng_state(), io.StringIO(), io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for script in SCRIPTS:
            names = runpy.run_path(str(ROOT / f"{script}.py"), run_name=script)
            assert callable(names["train"]) and "cli" not in names
    assert out.getvalue() + err.getvalue() == "" and list(tmp_path.iterdir()) == []
    assert {number: signal.getsignal(number) for number in signals} == signals
    assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), draw)
    torch.set_num_threads(1)


def python(*command, cwd):
    """Python with these arguments, as a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    result = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, text=True, capture_output=True,
                            env=env)
    assert result.returncode == 0 and "Error" not in result.stderr, result.stderr
    return result


@pytest.mark.parametrize("script", KINDS)
def test_without_docstrings_and_asserts(script, tmp_path, monkeypatch):
    """As python -OO compiles it."""
    path = ROOT / f"{script}.py"
    code = compile(path.read_text(), path, "exec", optimize=2)
    names = {"__name__": "__main__", "__file__": str(path), "__doc__": None}
    monkeypatch.setattr(sys, "argv", [str(path), *SMALL[script]])
    with as_it_was(tmp_path), contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(code, names)
    assert evaluation(shown.getvalue())[2] == 2


@pytest.mark.slow
def test_optimized_python(tmp_path):
    result = python("-OO", ROOT / "ppo.py", *SMALL["ppo"], cwd=tmp_path)
    assert evaluation(result.stdout)[2] == 2


@pytest.mark.parametrize("script, flag", [
    ("ppo", "--resume"), *(pytest.param(x, y, marks=pytest.mark.slow) for x, y in [
        ("ppo", "--evaluate"), ("dqn", "--resume"), ("dqn", "--evaluate"), ("sac", "--resume")])])
def test_nothing_deprecated(script, flag, tmp_path):
    """Also not where a file is read."""
    first = call(script, *SMALL[script], cwd=tmp_path)
    path = run_folder(tmp_path) / "checkpoint.pt"
    more = ["--total-timesteps", 400] * (flag == "--resume")
    result = python("-W", "error::DeprecationWarning", ROOT / f"{script}.py", flag, path, *more, cwd=tmp_path)
    assert "Deprecat" not in result.stderr
    assert (result.stdout.splitlines() == first.out.splitlines()[1:]) == (flag == "--evaluate")


# ---- the log

@pytest.mark.parametrize("script", all_of(SCRIPTS))
def test_every_episode_is_one_point(script, tmp_path):
    """Four environments whose episodes end together: none is lost, each has its own step, returns are raw."""
    flags = ["--env-id", probe(script, "Limit"), "--num-envs", 4, "--checkpoint-frequency", 0]
    flags += ["--clip-reward", "on"] * takes(script, "--clip-reward")
    folder = train(load(script), tmp_path, **fields(script, *flags))
    assert ":" not in folder.name
    episodes = checkpoint(folder / "checkpoint.pt")["step"] // 5
    tags = events(folder)
    returns, lengths = tags["charts/episodic_return"], tags["charts/episodic_length"]
    assert [value for _, value in returns] == [15.0] * episodes
    assert [value for _, value in lengths] == [5.0] * episodes
    steps = [step for step, _ in returns]
    assert len(set(steps)) == episodes and steps == sorted(steps) == [step for step, _ in lengths]
    assert steps[:5] == [17, 18, 19, 20, 37]


LOSSES = {"dqn": {"td_loss"}, "reinforce": {"policy_loss"}, "a2c": {"policy_loss", "value_loss", "entropy"},
          "ppo": {"policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac"},
          "sac": {"critic_loss", "policy_loss", "entropy", "alpha"}}


@pytest.mark.parametrize("script", all_of(SCRIPTS))
def test_log(script, tmp_path, monkeypatch):
    """Losses of the first update after each multiple of 1,000 transitions; epsilon or the learning rate; the
    evaluation; the arguments. Each tag has one point at a step."""
    module, updates, means = load(script), [], []
    spy(monkeypatch, module.Run, "log_losses", lambda run, step, **losses: updates.append(
        (step, {name: float(torch.as_tensor(loss).detach()) for name, loss in losses.items()})))
    original = module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda *args: means.append(original(*args)) or means[-1])
    flags = ["--total-timesteps", 3200, "--learning-rate", 0.002, "--num-envs", 2]
    flags += ["--exploration-fraction", 1] if takes(script, "--exploration-fraction") else []
    flags += ["--train-frequency", 32] if script in REPLAY else []
    flags += ["--env-id", "probes:Limit-v0"] if script in EPISODIC else []  # short batches
    folder = train(module, tmp_path, **fields(script, *flags))
    first = {step // 1000: (step, losses) for step, losses in reversed(updates)}
    expected = [first[k] for k in (1, 2, 3)]
    tags = events(folder)
    charts = {"charts/epsilon"} if script in VALUE and script != "noisy_dqn" else set()
    charts |= {"charts/learning_rate"} if takes(script, "--anneal-lr") else set()
    assert charts | {"charts/episodic_return", "charts/episodic_length", "eval/return"} == {
        tag for tag in tags if not tag.startswith("losses/")}
    found = {tag.partition("/")[2] for tag in tags if tag.startswith("losses/")}
    assert found >= LOSSES.get(script, {"td_loss"} if script in VALUE else {"value_loss"})
    assert len(updates) > 20
    for name in [*found, *(tag.partition("/")[2] for tag in charts)]:
        group = "charts" if f"charts/{name}" in charts else "losses"
        assert tags[f"{group}/{name}"] == [(step, pytest.approx(losses[name])) for step, losses in expected]
    for step, value in tags.get("charts/epsilon", []):
        assert value == pytest.approx(1 - 0.95 * (step - 2) / 3200)
    for step, value in tags.get("charts/learning_rate", []):
        assert value == pytest.approx(0.002 * (1 - (step - 32) / 3200))
    last = checkpoint(folder / "checkpoint.pt")["step"]
    assert tags["eval/return"] == [(last, pytest.approx(means[-1]))]
    reader = EventAccumulator(str(folder))
    reader.Reload()
    text = reader.Tensors("args/text_summary")[0].tensor_proto.string_val[0].decode()
    for name, value in checkpoint(folder / "checkpoint.pt")["args"].items():
        assert f"    {name}: {value}\n" in text + "\n"
    speed = reader.Scalars("charts/SPS")
    assert [event.step for event in speed] == [step for step, _ in expected] and speed[0].value > 0


def test_the_bar_and_the_speed(tmp_path, monkeypatch):
    """The mean of the last 100 returns, and of this process's own transitions, without those before a
    resume."""
    module, points = load("dqn"), []
    with as_it_was(tmp_path):
        run = module.Run(module.Args(), {}, {})
        run.logged = 0
        run.episodes = [(i, float(i), 1) for i in range(150)]
        run.write_episodes()
        assert run.bar.postfix == "return 99.5"
        run.first_step, run.began = 1000, run.began - 10
        monkeypatch.setattr(run.writer, "add_scalar", lambda tag, value, step: points.append((tag, value)))
        run.log_losses(1500, x=1.0)
        run.bar.close()
        run.writer.close()
    assert 40 < dict(points)["charts/SPS"] <= 50


@pytest.mark.parametrize("script", KINDS)
def test_the_end_of_a_run(script, tmp_path, monkeypatch):
    """The model is there before the evaluation, which Ctrl-C may end; events are, before a checkpoint is; and
    what has a file's name is on the disk."""
    module, seen, order = load(script), [], []
    spy(monkeypatch, module, "evaluate", lambda *_: seen.append(len(list(tmp_path.glob("runs/*/model.pt")))))
    spy(monkeypatch, SummaryWriter, "flush", lambda self: order.append("events"))
    spy(monkeypatch, os, "fsync", lambda file: order.append("disk"))
    spy(monkeypatch, os, "replace", lambda old, new: order.append(new.name))
    train(module, tmp_path, **fields(script))
    assert seen == [1]
    assert order[:3] == ["events", "disk", "checkpoint.pt"] and order.count("checkpoint.pt") == 2
    before = [order[i - 2:i] for i, name in enumerate(order) if name.endswith(".pt")]
    assert before == [["events", "disk"]] * 3


# ---- where flags go

@pytest.mark.parametrize("script", KINDS)
def test_the_seed_goes_everywhere(script, tmp_path, monkeypatch):
    """To torch, NumPy and random; to training's and, apart from them, evaluation's episodes. No seed resets
    twice in training."""
    module, made, reset = load(script), [], []
    for owner, name in (torch, "manual_seed"), (np.random, "seed"):
        spy(monkeypatch, owner, name, made.append)
    spy(monkeypatch, SyncVectorEnv, "reset", lambda self, seed=None, options=None: (
        options or reset.append(seed)))  # a reset by mask has no seed
    train(module, tmp_path, **fields(script, "--seed", 7, "--checkpoint-frequency", 100))
    assert made[:2] == [7, 7] == made[-2:]
    *training, last = reset
    assert last == 2**30 + 7 and max(training) < 2**30 and len(set(training)) == len(training) >= 3
    first = training[:]
    reset.clear()
    train(module, tmp_path, **fields(script, "--seed", 8, "--checkpoint-frequency", 100))
    assert not set(first) & set(reset)


def test_eval_epsilon(tmp_path, monkeypatch):
    """It is evaluation's; the same line each time."""
    module, given = load("dqn"), []
    folder = train(module, tmp_path, **fields("dqn", "--eval-epsilon", 0.3))
    lines = [call("dqn", "--evaluate", folder / "model.pt", *flags.split(), cwd=tmp_path).out.splitlines()[-1]
             for flags in ("", "", "--eval-epsilon 1", "--eval-epsilon 0.3", "--eval-epsilon 0")]
    assert lines[0] == lines[1] == lines[3] and len(set(lines)) == 3
    spy(monkeypatch, module, "act", lambda q_net, obs, epsilon, *_, **__: given.append(epsilon))
    train(module, tmp_path, **fields("dqn", "--eval-epsilon", 0.3, "--start-e", 0, "--end-e", 0))
    assert set(given[:300]) == {0} and set(given[300:]) == {0.3}


def test_sticky_actions(tmp_path, monkeypatch):
    """In training, evaluation and film."""
    module, given = load("ppo"), []
    frames = load("odd").Stacks

    def vector(env_id, num_envs, *_, **options):
        given.append((env_id, options["repeat_action_probability"]))
        return SyncVectorEnv([frames] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    monkeypatch.setattr(gym, "make_vec", vector)
    train(module, tmp_path, **fields("ppo", *PONG, "--repeat-action-probability", 0.25))
    module.make_envs(module.Args(env_id="ALE/Pong-v5", repeat_action_probability=0.5), 1, tmp_path)
    assert given == [("ale_py:ALE/Pong-v5", 0.25)] * 2 + [("ale_py:ALE/Pong-v5", 0.5)]


def test_games_in_training_and_film(tmp_path):
    """Both kinds of environments of a game have the same spaces; sticky actions change what is seen."""
    module, seen = load("dqn"), []
    for sticky in (0.0, 0.9):
        args = module.Args(env_id="ale_py:ALE/Pong-v5", repeat_action_probability=sticky)
        envs = module.make_envs(args, 2)
        obs = [envs.reset(seed=1)[0], *(envs.step(np.array([2, 3]))[0] for _ in range(30))]
        seen.append(np.stack(obs))
        spaces = envs.single_observation_space, envs.single_action_space
        envs.close()
    assert seen[0].shape == (31, 2, 4, 84, 84) and (seen[0] != seen[1]).any()
    film = module.make_envs(args, 1, tmp_path / "film")
    film.envs[0].env.episode_trigger = lambda episode: False  # make none
    obs, _ = film.reset(seed=3)
    film.close()
    assert (film.single_observation_space, film.single_action_space) == spaces
    assert obs.shape == (1, 4, 84, 84) and not obs[0, :3].any() and obs[0, 3].any()


def test_threads(monkeypatch):
    """One for vectors and torch's own choice for frames, if not told otherwise."""
    asked, module = [], load("dqn")
    monkeypatch.setattr("torch.get_num_threads", lambda: 5)
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    for given, flags in (0, []), (1, []), (3, []), (0, STACKS), (2, STACKS):
        module.set_up(module.Args(**fields("dqn", *flags, "--num-threads", given)))[0].close()
    assert asked == [1, 1, 3, 5, 2]
    torch.set_flush_denormal(False)


def test_device_auto(monkeypatch):
    """A GPU for frames only, if there is one."""
    module = load("ppo")
    for there in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        for env_id, frames in ("CartPole-v1", False), ("odd:Stacks-v0", True):
            envs, device = module.set_up(module.Args(env_id=env_id, num_threads=1))
            envs.close()
            assert device == ("cuda" if there and frames else "cpu")
    torch.set_flush_denormal(False)


def test_subnormal_numbers_are_zero(tmp_path, monkeypatch):
    """While it learns: the moments of dead units, which decay into them, slow Adam down."""
    def product(*_) -> float:
        return torch.tensor(1e-30).mul(1e-10).item()

    found = []
    spy(monkeypatch, torch.Tensor, "backward", lambda *_: found.append(product()))
    assert product() > 0
    train(load("dqn"), tmp_path, **fields("dqn"))
    assert found and not any(found)


@pytest.mark.parametrize("script", all_of(VALUE))
def test_acting_builds_no_graph(script, tmp_path, monkeypatch):
    """While td_loss is not at work, no output of a network has a gradient. Batches are as large as asked."""
    module, learning, outputs = load(script), [], []
    forward, td_loss = module.QNetwork.forward, module.td_loss

    def watched_forward(self, *args):
        output = forward(self, *args)
        outputs.append((bool(learning), output.requires_grad))
        return output

    def watched_td_loss(*args):
        assert len(args[0].obs) == 8
        learning.append(1)
        result = td_loss(*args)
        learning.pop()
        return result

    monkeypatch.setattr(module.QNetwork, "forward", watched_forward)
    monkeypatch.setattr(module, "td_loss", watched_td_loss)
    train(module, tmp_path, **fields(script, "--batch-size", 8))
    assert {(False, False), (True, True), (True, False)} == set(outputs)  # acting, online and target network


# ---- environments

@pytest.mark.parametrize("script", KINDS)
def test_vectors_are_float32(script, tmp_path, monkeypatch):
    """Also those of MuJoCo's float64 and of bytes, which are no frames; without a word."""
    module, seen = load(script), []
    spy(monkeypatch, module, "act", lambda net, obs, *_, **__: seen.append((obs.dtype, obs.ndim)))
    with contextlib.redirect_stderr(io.StringIO()) as err, as_it_was(tmp_path):
        for vector in ("Float64Box",) if script == "sac" else ("Float64", "ByteVector", "IntVector"):
            train(module, tmp_path, **fields(script, "--env-id", f"probes:{vector}-v0"))
    assert set(seen) == {(np.dtype(np.float32), 2)} and "Warning" not in err.getvalue()


def test_environment_without_render_mode(tmp_path):
    """Gymnasium does not ask for the argument."""
    env_id, plain = "test/Plain-v0", load("probes").Limit
    gym.register(env_id, entry_point=lambda: plain())
    try:
        folder = train(load("ppo"), tmp_path, **fields("ppo", "--env-id", env_id))
        assert folder.name.startswith("test-Plain-v0__")
    finally:
        del gym.registry[env_id]


def test_frames(tmp_path):
    flags = [*STACKS, "--train-frequency", "40", "--num-threads", "1"]
    result = call("dqn", *SMALL["dqn"], *flags, cwd=tmp_path)
    assert -36 <= evaluation(result.out)[0] <= 36 and "Warning" not in result.err


@pytest.mark.slow
@pytest.mark.parametrize("script", PIXELS)
def test_pong(script, tmp_path):
    flags = "--train-frequency 40 --batch-size 8 --n-step 3 --num-envs 2".split() if script in VALUE else []
    flags += ["--repeat-action-probability", "0.25", *ONE_GAME * (script in EPISODIC)]
    flags += ["--value-epochs", "1"] * takes(script, "--value-epochs")
    result = call(script, *SMALL[script], *PONG, *flags, cwd=tmp_path)
    mean, _, episodes = evaluation(result.out)
    assert -21 <= mean <= 21 and episodes == 1 and "Warning" not in result.err
    folder = run_folder(tmp_path)
    assert folder.name.startswith(f"ALE-Pong-v5__{script}__")
    state = checkpoint(folder / "checkpoint.pt")
    assert state["args"]["repeat_action_probability"] == 0.25
    if script in VALUE:
        assert state["buffer"]["obs"].dtype == torch.uint8 and state["buffer"]["obs"].shape[1:] == (84, 84)
        assert set(state["buffer"]["reward"].unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_the_environments_of_the_tests_are_sound():
    for name in "probes:Probe1", "probes:Probe6", "probes:Limit", "odd:Stacks", "odd:Info":
        env = gym.make(f"{name}-v0", disable_env_checker=True)
        env.reset(seed=0)
        for i in range(1, 20):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                assert i == env.unwrapped.length and terminated == env.unwrapped.terminal
                break
        else:
            raise AssertionError("no end")


# ---- films

@pytest.mark.parametrize("script", KINDS)
def test_films(script, tmp_path):
    """One of a whole episode at every checkpoint, the first and the last among them, and of an evaluation.
    Filming changes nothing in training."""
    moviepy = pytest.importorskip("moviepy")
    flags = [*SMALL[script], "--env-id", odd(script, "Filmed"), "--checkpoint-frequency", "200"]
    result = call(script, *flags, "--capture-video", cwd=tmp_path)
    assert "Warning" not in result.err
    folder = run_folder(tmp_path)
    last = str(checkpoint(folder / "checkpoint.pt")["step"])
    films = sorted(folder.glob("videos/*/*.mp4"))
    assert len(films) == 3 and {film.parent.name for film in films} >= {"0", last}
    assert f"filming into {folder.relative_to(tmp_path)}/videos/0\n" in result.out
    for film in films:
        with moviepy.VideoFileClip(str(film)) as clip:
            assert 10 <= clip.n_frames <= 12 and clip.get_frame(0.5).mean() > clip.get_frame(0).mean()
    (tmp_path / "unfilmed").mkdir()
    call(script, *flags, cwd=tmp_path / "unfilmed")
    states = [checkpoint(run_folder(cwd) / "checkpoint.pt") for cwd in (tmp_path, tmp_path / "unfilmed")]
    assert differences(*states) == ["/args/capture_video: True and False"]
    again = call(script, "--evaluate", folder / "model.pt", "--capture-video", cwd=tmp_path)
    assert again.out.splitlines()[-1] == result.out.splitlines()[-1]
    assert len(list(folder.glob("videos/evaluate/*.mp4"))) == 1
    command = [sys.executable, ROOT / "benchmark" / "film.py", folder, tmp_path / "film.gif"]
    subprocess.run([*command, "--steps", "0", last, "--frames", "5"], check=True)
    with pytest.importorskip("PIL.Image").open(tmp_path / "film.gif") as gif:
        assert gif.size == (360, 180) and gif.n_frames == 5


@pytest.mark.slow
@pytest.mark.parametrize("script, env_id", [("dqn", "CartPole-v1"), ("ppo", "ALE/Pong-v5"),
                                            ("sac", "Pendulum-v1")])
def test_films_of_known_environments(script, env_id, tmp_path):
    moviepy = pytest.importorskip("moviepy")
    flags = ["--env-id", env_id, "--eval-episodes", "1", "--num-threads", "1", "--checkpoint-frequency", "0"]
    call(script, *SMALL[script], *flags, "--capture-video", cwd=tmp_path)
    for film in run_folder(tmp_path).glob("videos/*/*.mp4"):
        with moviepy.VideoFileClip(str(film)) as clip:
            assert clip.n_frames >= 8 and clip.get_frame(0).std() > 0
