"""What users of such software reported in public, each with an input of our own. Cited are the reports.

Those whose answer is a sentence are in test_bad_input; stopping and seeds are in test_resume; films, threads,
python -OO and warnings are in test_run.
"""
import ast
import contextlib
import io
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from common import (
    KINDS,
    POLICY,
    ROOT,
    SCRIPTS,
    SMALL,
    as_it_was,
    call,
    end,
    fields,
    load,
    run_folder,
    start,
    train,
)
from gymnasium.wrappers import RecordVideo


def odd(script: str, name: str) -> str:
    return f"odd:{name}{'Box' if script == 'sac' else ''}-v0"


@pytest.mark.slow
def test_runs_begun_at_once(tmp_path):
    """cleanrl#256, imitation#78: six processes of one script and seed have six folders, each with a model."""
    processes = [start("dqn", *SMALL["dqn"], cwd=tmp_path) for _ in range(6)]
    assert len({end(process).out.splitlines()[0] for process in processes}) == 6
    assert len(list(tmp_path.glob("runs/*/model.pt"))) == 6


@pytest.mark.parametrize("script", KINDS)
def test_whatever_is_in_info(script, tmp_path):
    """gym#2657, #2773: it has other keys, types and lengths at each step, and is not used. Evaluation and
    --evaluate, too, have several environments side by side."""
    flags = [*SMALL[script], "--env-id", odd(script, "Info"), "--eval-episodes", 4]
    for num_envs in 1, 3:
        cwd = tmp_path / str(num_envs)
        cwd.mkdir()
        first = call(script, *flags, "--num-envs", num_envs, cwd=cwd).out.splitlines()[-1]
        model = run_folder(cwd) / "model.pt"
        assert call(script, "--evaluate", model, cwd=cwd).out.splitlines()[-1] == first


def test_info_reaches_wrappers(monkeypatch, tmp_path):
    """It is dropped outside of the environment and its own wrappers, which may use it."""
    module, seen = load("ppo"), []
    odd_module = load("odd")

    class Reader(gym.Wrapper):
        def step(self, action):
            *step, info = self.env.step(action)
            seen.append(info)
            return *step, info
    gym.register("test/Reader-v0", entry_point=lambda: Reader(odd_module.Info()))
    try:
        train(module, tmp_path, **fields("ppo", "--env-id", "test/Reader-v0"))
    finally:
        del gym.registry["test/Reader-v0"]
    assert any("seen" in info for info in seen)


@pytest.mark.parametrize("script", KINDS)
def test_an_environment_of_which_only_one_may_live(script, tmp_path):
    """ml-agents#5674: with one environment and one episode of evaluation never two are open, and none is
    left. With two in the evaluation its own error tells, after the model is saved."""
    only = load("odd").OnlyOne
    flags = ["--env-id", odd(script, "OnlyOne"), "--num-envs", 1, "--eval-episodes"]
    folder = train(load(script), tmp_path, **fields(script, *flags, 1))
    assert only.alive == 0
    call(script, "--evaluate", folder / "model.pt", cwd=tmp_path)
    assert only.alive == 0
    with pytest.raises(RuntimeError, match="the simulator is in use"):
        train(load(script), tmp_path, **fields(script, *flags, 2))
    only.alive = 0
    assert len(list(tmp_path.glob("runs/*/model.pt"))) == 2


def test_a_film_needs_a_second_one(tmp_path):
    """... and says so at once, not after hours: the first film is taken before the first step."""
    only, module, steps = load("odd").OnlyOne, load("dqn"), []
    flags = ["--env-id", "odd:OnlyOne-v0", "--num-envs", 1, "--capture-video"]
    step = only.step
    try:
        only.step = lambda self, action: steps.append(1) or step(self, action)
        with pytest.raises(RuntimeError, match="the simulator is in use"):
            train(module, tmp_path, **fields("dqn", *flags))
    finally:
        only.step, only.alive = step, 0
    assert steps == []


def test_a_film_is_bounded(tmp_path, monkeypatch):
    """Gymnasium#714, stable-baselines3#2134: its frames never have more than about 1 GB, and the message
    before says where it goes. A short one is whole."""
    module, frames, most = load("ppo"), [], []
    capture = RecordVideo._capture_frame

    def counted(self):
        capture(self)
        most.append(sum(frame.nbytes for frame in self.recorded_frames))
        frames.append(len(self.recorded_frames))

    def stop(self):
        self.recorded_frames, self.recording = [], False
    monkeypatch.setattr(RecordVideo, "_capture_frame", counted)
    monkeypatch.setattr(RecordVideo, "stop_recording", stop)
    for name, least, at_most in ("Filmed", 11, 11), ("LongFilm", 20, 27):
        with as_it_was(tmp_path), contextlib.redirect_stdout(io.StringIO()) as shown:
            args = module.Args(env_id=f"odd:{name}-v0")
            module.evaluate(args, lambda obs: np.ones(len(obs), int), tmp_path / name)
        assert shown.getvalue() == f"filming into {tmp_path / name}\n"
        assert max(most) <= 1.1e9 and least <= frames[-1] <= at_most


BOUNDS = ["Small", "Large", "Unequal"]


def test_bounds_of_actions():
    """stable-baselines#637, garage#710: -1 is the lower bound, 1 the upper one and 0 the middle, in each
    dimension; draws beyond them are at the bound. Never a rounding outside of the space."""
    to_env, draws = load("sac").to_env, 3 * np.random.default_rng(0).standard_normal((500, 2), np.float32)
    for name in BOUNDS:
        space = vars(load("odd"))[name].action_space
        low, high = np.float64(space.low), np.float64(space.high)
        for value, expected in (-1, low), (1, high), (0, (low + high) / 2), (0.5, high - (high - low) / 4):
            action = to_env(np.full((3, *space.shape), value, np.float32), space)
            assert action.shape == (3, *space.shape) and action.dtype == space.dtype
            assert action == pytest.approx(np.broadcast_to(expected, action.shape), rel=1e-5)
        assert all(space.contains(action) for action in to_env(draws[:, :len(low)], space))
        beyond = to_env(np.float32([[7] * len(low), [-7] * len(low)]), space)
        assert (beyond == [space.high, space.low]).all()


def reached(script, name, tmp_path, *flags):
    """The evaluation after a short training. At the middle it is -0.25; at the better bound, too."""
    flags = ["--env-id", f"odd:{name}-v0", "--gamma", 0.9, "--eval-episodes", 1, *flags]
    with as_it_was(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        return load(script).train(load(script).Args(**fields(script, *flags)))


def test_other_bounds_are_learned(tmp_path):
    """Whatever they are, just as fast."""
    flags = ["--total-timesteps", 2048, "--num-steps", 128, "--update-epochs", 10, "--learning-rate", 0.01]
    for name in BOUNDS:
        assert reached("ppo", name, tmp_path, *flags) > -0.1, name


@pytest.mark.slow
@pytest.mark.parametrize("script, name, flags", [
    *(("sac", name, "--total-timesteps 2000 --batch-size 64 --learning-rate 0.003") for name in BOUNDS),
    ("a2c", "Large", "--total-timesteps 30000 --learning-rate 0.003")])
def test_other_bounds_are_learned_by_the_others(script, name, flags, tmp_path):
    assert reached(script, name, tmp_path, *flags.split()) > -0.15


def test_names_of_games(tmp_path):
    """As Gymnasium's own examples have them, with the module in front."""
    module, env_id = load("ppo"), "ale_py:ALE/Breakout-v5"
    envs, _ = module.set_up(module.Args(env_id=env_id, num_envs=2, num_threads=1))
    assert envs.reset(seed=1)[0].shape == (2, 4, 84, 84)
    envs.close()
    torch.set_flush_denormal(False)
    with as_it_was(tmp_path):
        run = module.Run(module.Args(env_id=env_id), {}, {})
        run.writer.close()
    assert not {":", "/"} & set(run.folder.name)


@pytest.mark.parametrize("script", ["dqn", "sac"])
def test_a_word_before_evaluation(script, tmp_path, monkeypatch):
    """... so that a long one is no silence, and is seen at once also where standard output is a file. The bar
    has no number before there is one."""
    module, shown = load(script), []

    def play(self, *_):
        shown.append(sys.stdout.getvalue())
        raise KeyboardInterrupt
    with as_it_was(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        monkeypatch.setattr(gym.vector.SyncVectorEnv, "step", play)
        with pytest.raises(KeyboardInterrupt):
            module.evaluate(module.Args(eval_episodes=5), lambda obs: obs)
    assert shown == ["evaluating 5 episodes\n"]
    monkeypatch.undo()
    flags = ["--env-id", "probes:Endless-v0"] if script != "sac" else []  # Pendulum: 200 steps
    monkeypatch.setattr(module, "evaluate", lambda *_: 0.0)
    with contextlib.redirect_stderr(io.StringIO()) as err:
        train(module, tmp_path, **fields(script, *flags, "--total-timesteps", 160))
    assert "160/160" in err.getvalue() and "return" not in err.getvalue()


def losses() -> list[tuple[str, str, str]]:
    """(script, function, first paragraph of its docstring) of all that end in _loss, and of the targets."""
    found = []
    for script in SCRIPTS:
        for node in ast.parse((ROOT / f"{script}.py").read_text()).body:
            if isinstance(node, ast.FunctionDef) and (node.name.endswith("_loss") or node.name in (
                    "gae", "discounted_returns", "soft_target", "squash")):
                found.append((script, node.name, (ast.get_docstring(node) or "").split("\n\n")[0]))
    return found


def test_losses_say_which_shapes_they_take():
    """RLinf#1568: a (B, 1) beside a (B,) broadcasts in silence. The first words name the shapes."""
    silent = [(script, name) for script, name, text in losses()
              if not any(f"({shape})" in text for shape in ("B,", "T,", "T, N", "B, A"))]
    assert len(losses()) > 15 and silent == []


def test_networks_give_those_shapes():
    """... and the critics of the policy scripts keep to them."""
    obs = torch.zeros(5, 3)
    for script in POLICY:
        module = load(script)
        dist = module.Policy(obs.shape[1:], gym.spaces.Box(-1, 1, (2,)))(obs)
        assert dist.log_prob(dist.sample()).shape == (5,)
        if script != "reinforce":
            assert module.Critic(obs.shape[1:])(obs).shape == dist.entropy().shape == (5,)


@pytest.mark.slow
def test_names_of_folders(tmp_path):
    """Spaces, brackets, kanji, a leading dash."""
    cwd = tmp_path / "-a [folder] with 漢字"
    cwd.mkdir()
    call("ppo", *SMALL["ppo"], cwd=cwd)
    path = run_folder(cwd) / "checkpoint.pt"
    command = [sys.executable, ROOT / "ppo.py", "--resume", path, "--total-timesteps", "400"]
    result = subprocess.run([str(part) for part in command], cwd=cwd, text=True, capture_output=True)
    assert result.returncode == 0 and "eval: mean" in result.stdout, result.stderr


def test_the_environments_of_these_tests_are_as_bad_as_they_say():
    """Gymnasium cannot merge Info's infos; the second OnlyOne is refused."""
    odd_module = load("odd")
    envs = gym.vector.SyncVectorEnv([odd_module.Info] * 4)
    envs.reset(seed=0)
    with pytest.raises((ValueError, TypeError, AttributeError, IndexError, KeyError)):
        for _ in range(6):
            envs.step(np.zeros(4, int))
    first = odd_module.OnlyOne()
    with pytest.raises(RuntimeError):
        odd_module.OnlyOne()
    first.close()
