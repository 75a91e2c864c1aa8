"""Every script runs: vectors and pixels, each flag that changes a branch; and what a run leaves behind."""
import dataclasses
import os
import re
import shutil
import subprocess
import sys

import gymnasium as gym
import pytest
import torch
from common import (
    EPISODIC,
    EVAL,
    ONE_GAME,
    PIXELS,
    POLICY,
    PONG,
    REPLAY,
    ROOT,
    SCRIPTS,
    SMALL,
    VALUE,
    as_it_was,
    call,
    checkpoint,
    differences,
    end,
    events,
    load,
    probe,
    run_folder,
    start,
    takes,
    train,
)

FLAGS = ["--num-envs 3", "--seed 7 --num-threads 1", "--eval-episodes 1 --gamma 0.9", "--device cpu",
         "--checkpoint-frequency 0", "--checkpoint-frequency 100", "--clip-reward on", "--clip-reward off"]
REPLAY_FLAGS = ["--train-frequency 1 --batch-size 1 --learning-starts 299", "--num-envs 7 --buffer-size 20"]
VALUE_FLAGS = ["--n-step 3 --num-envs 3", "--n-step 5 --buffer-size 16", "--target-network-frequency 1",
               "--start-e 0.5 --end-e 0 --exploration-fraction 0"]
SAC_FLAGS = ["--no-autotune", "--no-autotune --alpha 2", "--alpha 0.01 --num-envs 3", "--tau 1"]
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


def evaluation(out: str) -> tuple[float, float, int]:
    """Mean, standard deviation and number from the last line of standard output."""
    match = EVAL.fullmatch(out.splitlines()[-1])
    assert match and len(EVAL.findall(out)) == 1, out
    return float(match[1]), float(match[2]), int(match[3])


@pytest.fixture(scope="module", params=SCRIPTS)
def small(request, tmp_path_factory):
    """A small run of a copy of the script in a folder of its own: (script, the folder, its standard output).
    -I: neither that folder nor PYTHONPATH is searched, so that no sibling can be imported."""
    script, cwd = request.param, tmp_path_factory.mktemp(request.param)
    shutil.copy(ROOT / f"{script}.py", cwd)
    process = subprocess.run([sys.executable, "-I", f"{script}.py", *SMALL[script]], cwd=cwd, text=True,
                             capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.returncode == 0, process.stderr
    return script, cwd, process.stdout


def test_a_run_and_what_it_leaves(small):
    script, cwd, out = small
    assert evaluation(out)[2] == 2
    assert {path.name for path in cwd.iterdir()} == {f"{script}.py", "runs"}
    folder = run_folder(cwd)
    assert re.fullmatch(rf"[\w-]+__{script}__1__\d+", folder.name)
    kinds = sorted(path.name.partition(".tfevents")[0] for path in folder.iterdir())
    assert kinds == ["checkpoint.pt", "events.out", "model.pt"]
    tags = events(folder)
    assert {"charts/episodic_return", "charts/episodic_length"} <= set(tags)
    assert any(tag.startswith("losses/") for tag in tags)
    state = checkpoint(folder / "checkpoint.pt")
    if script in REPLAY:  # 200 that can be drawn, and the newest
        assert len(state["buffer"]["reward"]) == 201
    assert state["step"] >= 300 and state["args"]["eval_episodes"] == 2
    model = {"q_net"} if script in VALUE else {
        "reinforce": {"policy"}, "vpg": {"policy", "critic"}, "sac": {"policy", "critic"}}.get(
        script, {"net", "obs_norm"})
    assert set(checkpoint(folder / "model.pt")) == {"script", "args", *model}  # networks, no buffer


def test_evaluate_prints_the_same_line(small):
    """From either file; and writes nothing."""
    script, cwd, out = small
    before = sorted(cwd.rglob("*"))
    for name in "checkpoint.pt", "model.pt":
        result = call(script, "--evaluate", run_folder(cwd) / name, cwd=cwd)
        assert result.out.splitlines() == out.splitlines()[-1:]
    result = call(script, "--evaluate", run_folder(cwd) / name, "--eval-episodes", "3", cwd=cwd)
    assert evaluation(result.out)[2] == 3
    assert sorted(cwd.rglob("*")) == before


@pytest.mark.parametrize("script, flags", CASES)
def test_flags(script, flags, tmp_path):
    result = call(script, *SMALL[script], *flags.split(), cwd=tmp_path)
    evaluation(result.out)
    assert result.err == ""
    assert (run_folder(tmp_path) / "model.pt").exists()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("given, threads", [("0", 1), ("1", 1), ("3", 3)])
def test_threads(script, given, threads, tmp_path, monkeypatch):
    """One for vectors, if not told otherwise."""
    asked = []

    def stop(number):
        asked.append(number)
        if len(asked) == 1:  # and not when they are set back
            sys.exit()
    monkeypatch.setattr("torch.set_num_threads", stop)
    call(script, *SMALL[script], "--num-threads", given, cwd=tmp_path)
    assert asked[0] == threads


@pytest.mark.parametrize("script", SCRIPTS)
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


def test_importing_runs_nothing(tmp_path):
    for script in SCRIPTS:
        shutil.copy(ROOT / f"{script}.py", tmp_path)
    lines = ["import sys", "sys.dont_write_bytecode = True", *(f"import {script}" for script in SCRIPTS)]
    (tmp_path / "main.py").write_text("\n".join(lines))
    result = end(start("main", "--no-such-flag", cwd=tmp_path, path=tmp_path / "main.py"))
    assert result.out + result.err == ""
    assert {path.stem for path in tmp_path.iterdir()} == {*SCRIPTS, "main"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_runs_in_one_second_have_folders_of_their_own(script, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1234.0 + 1e-3 * next(ticks))
    ticks, module = iter(range(10**9)), load(script)
    with as_it_was(tmp_path):
        for _ in range(3):
            module.Run(module.Args(), {}).writer.close()
    assert len(list(tmp_path.glob("runs/*__1234*"))) == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_video(script, tmp_path):
    """One film at every checkpoint and one at the end, each of a whole episode (of 8 steps or more). Filming
    changes nothing in training."""
    moviepy = pytest.importorskip("moviepy")
    result = call(script, *SMALL[script], "--capture-video", "--checkpoint-frequency", "200", cwd=tmp_path)
    evaluation(result.out)
    films = sorted(run_folder(tmp_path).glob("videos/*.mp4"))
    assert len(films) == 2
    for film in films:
        with moviepy.VideoFileClip(str(film)) as clip:
            assert clip.n_frames >= 8 and clip.get_frame(0).std() > 0
    (tmp_path / "unfilmed").mkdir()
    call(script, *SMALL[script], "--checkpoint-frequency", "200", cwd=tmp_path / "unfilmed")
    states = [checkpoint(run_folder(cwd) / "checkpoint.pt") for cwd in (tmp_path, tmp_path / "unfilmed")]
    assert differences(*states) == ["/args/capture_video: True and False"]
    again = call(script, "--evaluate", run_folder(tmp_path) / "model.pt", "--capture-video", cwd=tmp_path)
    assert again.out.splitlines() == result.out.splitlines()[-1:]
    assert len(list(run_folder(tmp_path).glob("videos/*.mp4"))) == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_episode_is_one_point(script, tmp_path):
    """Four environments whose episodes end together: none is lost, each has its own step, returns are raw."""
    flags = f"--env-id {probe(script, 'Limit')} --num-envs 4 --checkpoint-frequency 0".split()
    flags += ["--clip-reward", "on"] * takes(script, "--clip-reward")
    call(script, *SMALL[script], *flags, cwd=tmp_path)
    folder = run_folder(tmp_path)
    assert ":" not in folder.name
    episodes = checkpoint(folder / "checkpoint.pt")["step"] // 5
    tags = events(folder)
    returns, lengths = tags["charts/episodic_return"], tags["charts/episodic_length"]
    assert [value for _, value in returns] == [15.0] * episodes
    assert [value for _, value in lengths] == [5.0] * episodes
    steps = [step for step, _ in returns]
    assert len(set(steps)) == episodes and steps == sorted(steps) == [step for step, _ in lengths]
    assert steps[:5] == [17, 18, 19, 20, 37]


@pytest.mark.parametrize("script", VALUE)
@pytest.mark.parametrize("clip, stored", [("auto", 3.0), ("on", 1.0), ("off", 3.0)])
def test_learner_sees_clipped_rewards(script, clip, stored, tmp_path):
    folder = train(load(script), tmp_path, env_id="probes:Limit-v0", total_timesteps=100, learning_starts=50,
                   buffer_size=100, batch_size=8, clip_reward=clip, eval_episodes=1)
    buffer = checkpoint(folder / "checkpoint.pt")["buffer"]
    assert buffer["reward"].unique().tolist() == [stored]


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "sac"])
def test_actions_may_start_anywhere(script, tmp_path):
    """The environment of Discrete(2, start=5, dtype=np.int32) insists on 5 or 6, and on the dtype."""
    result = call(script, *SMALL[script], "--env-id", "probes:Start5-v0", cwd=tmp_path)
    assert abs(evaluation(result.out)[0]) <= 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_float64_is_cast_without_a_word(script, tmp_path):
    """As of MuJoCo's environments."""
    result = call(script, *SMALL[script], "--env-id", probe(script, "Float64"), cwd=tmp_path)
    assert result.err == ""


@pytest.mark.parametrize("script", VALUE)
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
        assert result[0].requires_grad and not result[1].requires_grad
        return result

    monkeypatch.setattr(module.QNetwork, "forward", watched_forward)
    monkeypatch.setattr(module, "td_loss", watched_td_loss)
    train(module, tmp_path, total_timesteps=200, learning_starts=50, buffer_size=100, batch_size=8,
          eval_episodes=1)
    assert {(False, False), (True, True), (True, False)} == set(outputs)  # acting, online and target network


@pytest.mark.parametrize("script", PIXELS)
def test_pixels(script, tmp_path):
    flags = "--train-frequency 40 --batch-size 8 --n-step 3 --num-envs 2".split() if script in VALUE else []
    flags += ["--repeat-action-probability", "0.25", *ONE_GAME * (script in EPISODIC)]
    flags += ["--value-epochs", "1"] * takes(script, "--value-epochs")
    result = call(script, *SMALL[script], *PONG, *flags, cwd=tmp_path)
    mean, _, episodes = evaluation(result.out)
    assert -21 <= mean <= 21 and episodes == 1 and result.err == ""
    folder = run_folder(tmp_path)
    assert folder.name.startswith(f"ALE-Pong-v5__{script}__")
    state = checkpoint(folder / "checkpoint.pt")
    assert differences(state["args"], {**state["args"], "repeat_action_probability": 0.25}) == []
    if script in VALUE:
        buffer = state["buffer"]
        assert buffer["frame"].dtype == torch.uint8 and buffer["frame"].shape[-2:] == (84, 84)
        assert set(buffer["reward"].unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_the_environments_of_the_tests_are_sound():
    for name in "Probe1", "Probe6", "Limit", "Start5":
        env = gym.make(f"probes:{name}-v0", disable_env_checker=True)
        env.reset(seed=0)
        for i in range(1, 20):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                assert i == env.unwrapped.length and terminated == env.unwrapped.terminal
                break
        else:
            raise AssertionError("no end")
