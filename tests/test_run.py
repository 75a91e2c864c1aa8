"""What a run does around its learning: where its seed goes, what it checks, shows and leaves."""
import signal
import subprocess

import gymnasium as gym
import numpy as np
import pytest
import torch
from common import (
    EPISODIC,
    PIXELS,
    POLICY,
    REPLAY,
    SCRIPTS,
    SMALL,
    VALUE,
    as_it_was,
    call,
    checkpoint,
    events,
    load,
    start,
    train,
)
from gymnasium.vector import SyncVectorEnv
from torch.utils.tensorboard import SummaryWriter


def small(script) -> dict:
    fields = {"total_timesteps": 100, "eval_episodes": 1}
    if script in REPLAY:
        fields |= {"learning_starts": 50, "buffer_size": 100, "batch_size": 8, "train_frequency": 25}
    return fields


def spy(monkeypatch, owner, name, note):
    """From now on note(...) sees the arguments of every call."""
    original = getattr(owner, name)

    def watched(*args, **kwargs):
        note(*args, **kwargs)
        return original(*args, **kwargs)
    monkeypatch.setattr(owner, name, watched)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_seed_goes_everywhere(script, tmp_path, monkeypatch):
    """To networks, exploration and replay, training's and evaluation's episodes; no seed resets twice."""
    made, drawn, reset = [], [], []
    spy(monkeypatch, torch, "manual_seed", made.append)
    spy(monkeypatch, np.random, "default_rng", lambda *seed: drawn.extend(seed))
    spy(monkeypatch, SyncVectorEnv, "reset", lambda self, seed=None, options=None: (
        options or reset.append(seed)))  # a reset by mask has no seed
    call(script, *SMALL[script], "--seed", "7", "--checkpoint-frequency", "100", cwd=tmp_path)
    assert made[0] == 7 and (script not in REPLAY or 7 in drawn)
    assert reset[0] == load(script).reset_seed(7, 0) and reset[-1] == 2**30 + 7
    assert len(set(reset)) == len(reset) >= 3


@pytest.mark.parametrize("script", PIXELS)
def test_sticky_in_training_and_evaluation(script, tmp_path, monkeypatch):
    module, given = load(script), []
    spy(monkeypatch, module, "make_envs", lambda *args: given.append(args[2]))
    train(module, tmp_path, repeat_action_probability=0.25, **small(script))
    assert given == [0.25, 0.25]


@pytest.mark.parametrize("script", VALUE)
@pytest.mark.parametrize("clip, stored", [("auto", {-1, 1}), ("off", {-3, 3})])
def test_learner_sees_clipped_rewards_of_frames(script, clip, stored, tmp_path):
    folder = train(load(script), tmp_path, env_id="probes:Frames-v0", clip_reward=clip, **small(script))
    assert set(checkpoint(folder / "checkpoint.pt")["buffer"]["reward"].unique().tolist()) == stored


@pytest.mark.parametrize("script", PIXELS)
def test_threads_for_pixels(script, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 5)
    monkeypatch.setattr("torch.set_num_threads", asked.append)  # asked for only: five on few cores are slow
    train(load(script), tmp_path, env_id="probes:Frames-v0", **small(script))
    assert asked[0] == 5


@pytest.mark.parametrize("script", SCRIPTS)
def test_subnormal_numbers_are_zero(script, tmp_path, monkeypatch):
    """While it learns: the moments of dead units, which decay into them, slow Adam down."""
    def product(*_) -> float:
        return torch.tensor(1e-30).mul(1e-10).item()

    found = []
    spy(monkeypatch, torch.Tensor, "backward", lambda *_: found.append(product()))
    assert product() > 0
    train(load(script), tmp_path, **small(script))
    assert found and not any(found)


@pytest.mark.parametrize("script", VALUE)
def test_eps_of_adam(script, tmp_path):
    """From the flag, on --resume, too."""
    def eps() -> float:
        return checkpoint(path)["optimizer"]["param_groups"][0]["eps"]

    path = train(load(script), tmp_path, adam_eps=0.5, **small(script)) / "checkpoint.pt"
    assert eps() == 0.5
    call(script, "--resume", path, "--adam-eps", "0.25", "--total-timesteps", "150", cwd=tmp_path)
    assert eps() == 0.25


@pytest.mark.parametrize("script", PIXELS)
def test_device_auto(script, monkeypatch):
    """A GPU for pixels only."""
    module = load(script)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for env_id, device in ("CartPole-v1", "cpu"), ("probes:Frames-v0", "cuda"):
        assert module.check(module.Args(env_id=env_id), {})[1] == device


@pytest.mark.parametrize("script", SCRIPTS)
def test_log(script, tmp_path, capsys):
    """The mean of the last 100 returns and this process's own speed; a single bad number stops the run."""
    module = load(script)
    with as_it_was(tmp_path):
        run = module.Run(module.Args(), {})
        good, bad = torch.tensor([1.0]), torch.tensor([1.0, np.nan])
        run.finished += [(i, float(i), 1.0) for i in range(150)]
        run.first_step, run.began = 1000, run.began - 10
        run.log(1500, {"losses/x": good[0]}, {"w": good})
        out = capsys.readouterr().out
        assert "step 1500/" in out and "return 99.5" in out and 40 < float(out.split()[-2]) <= 50
        for scalars, weights in ({"losses/x": bad[1]}, {"w": good}), ({"losses/x": good[0]}, {"w": bad}):
            with pytest.raises(SystemExit):
                run.log(1600, scalars, weights)
        run.writer.close()


def watch(monkeypatch, module, name) -> list:
    """What the function returns from now on, and the arguments: (returned, *arguments)."""
    original, seen = getattr(module, name), []
    monkeypatch.setattr(module, name, lambda *args: seen.append((original(*args), *args)) or seen[-1][0])
    return seen


@pytest.mark.parametrize("script", SCRIPTS)
def test_logged_losses_are_those_of_the_last_update(script, tmp_path, monkeypatch):
    """Or of the last batch of episodes, summed as their gradients are."""
    module, kind = load(script), {"a2c": "a2c_loss", "ppo": "ppo_loss", "reinforce": "reinforce_loss",
                                  "vpg": "vpg_loss", "sac": "critic_loss"}.get(script, "td_loss")
    seen, more = watch(monkeypatch, module, kind), []
    if script in ("vpg", "sac"):
        more = watch(monkeypatch, module, "value_loss" if script == "vpg" else "policy_loss")
    env = {"env_id": "Pendulum-v1"} if script == "sac" else {}
    fields = {"total_timesteps": 1, "eval_episodes": 1} if script in EPISODIC else small(script)
    tags = events(train(module, tmp_path, **env, **fields))
    last = seen[-1][0]
    if script in VALUE:
        want = {"td_loss": last[0], "td_error": last[1].abs().mean()}
    elif script == "reinforce":
        want = {"policy_loss": sum(loss for loss, *_ in seen) / len(seen)}
    elif script == "vpg":
        want = {"loss": sum(loss for loss, *_ in seen) / len(seen),
                "entropy": sum(entropy.mean() for _, _, _, entropy, *_ in seen) / len(seen),
                "value_loss": more[-1][0]}
    elif script == "sac":
        want = {"critic_loss": last, "policy_loss": more[-1][0], "entropy": -more[-1][1].mean(),
                "alpha": more[-1][3]}
    else:
        want = last[1]
        assert want["policy_loss"] != want["value_loss"]
    assert {tag.partition("/")[2] for tag in tags if tag.startswith("losses/")} == set(want)
    for name, value in want.items():
        assert tags[f"losses/{name}"][-1][1] == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stopped_run_saves_and_films_nothing(script, tmp_path, monkeypatch):
    """Who pressed Ctrl-C waits for no film."""
    module, films = load(script), []
    monkeypatch.setattr(module, "evaluate", lambda args, policy, film=None: films.append(film))
    with as_it_was(tmp_path):
        run = module.Run(module.Args(capture_video=True), {})
        run.save(100, {}, None)
        run.stop = signal.SIGINT
        run.save(200, {}, None)
        run.writer.close()
        assert [film.name for film in films] == ["step-100"]
        assert torch.load(run.folder / "checkpoint.pt", weights_only=True)["step"] == 200


def test_a_film_ends_where_its_episode_does_not(tmp_path, monkeypatch):
    from gymnasium.utils import save_video

    class Endless:
        metadata = {}

        def reset(self, seed):
            return np.zeros(1), {}

        def step(self, action):
            return np.zeros(1), np.zeros(1), np.zeros(1, bool), np.zeros(1, bool), {}

        def render(self):
            return ["frame"]

        def close(self):
            pass

    module, films = load("dqn"), []
    monkeypatch.setattr(module, "make_envs", lambda *_: Endless())
    monkeypatch.setattr(save_video, "save_video", lambda frames, *_, **__: films.append(len(frames)))
    module.evaluate(module.Args(), lambda obs: obs, tmp_path / "film")
    assert films == [10_000]


def test_the_critic_of_vpg_is_checked_too(tmp_path, monkeypatch):
    module, names = load("vpg"), []
    spy(monkeypatch, module.Run, "log", lambda self, step, scalars, weights: names.extend(weights))
    train(module, tmp_path, **small("vpg"))
    assert {"critic", "head"} <= {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_point_every_1000_transitions(script, tmp_path):
    folder = train(load(script), tmp_path, **small(script) | {"total_timesteps": 3000, "train_frequency": 500}
                   if script in REPLAY else {"total_timesteps": 3000, "eval_episodes": 1})
    found = [len(points) for tag, points in events(folder).items() if tag.startswith("losses")]
    assert found and min(found) >= 3


@pytest.mark.parametrize("script", ["a2c", "ppo"])
def test_first_observations_are_scaled(script, tmp_path, monkeypatch):
    """Also the first one after a checkpoint."""
    module, scaled, acted = load(script), [], []
    original = module.RunningNorm.scale

    def scale(self, x, **options):
        scaled.append(original(self, x, **options))
        return scaled[-1]
    monkeypatch.setattr(module.RunningNorm, "scale", scale)
    spy(monkeypatch, module, "act", lambda policy, obs, device: acted.append(any(obs is x for x in scaled)))
    train(module, tmp_path, env_id="Pendulum-v1", norm_obs=True, total_timesteps=64, num_envs=2, num_steps=8,
          checkpoint_frequency=32, eval_episodes=1)
    assert acted == [True] * 32


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_end_of_a_run(script, tmp_path, monkeypatch):
    """The model is there before the evaluation, which Ctrl-C ends; events are, before a checkpoint is."""
    module, seen, order = load(script), [], []
    spy(monkeypatch, module, "evaluate", lambda *_: seen.append(
        (signal.getsignal(signal.SIGINT), len(list(tmp_path.glob("runs/*/model.pt"))))))
    spy(monkeypatch, SummaryWriter, "flush", lambda self: order.append("events"))
    spy(monkeypatch, module, "save_checkpoint", lambda path, state: order.append(path.name))
    train(module, tmp_path, **small(script))
    assert seen == [(signal.SIG_DFL, 1)]
    assert order[order.index("checkpoint.pt") - 1] == "events"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_write_that_fails_leaves_the_old_file(script, tmp_path, monkeypatch):
    module, path = load(script), tmp_path / "model.pt"
    module.save_checkpoint(path, {"x": 1})

    def full(state, file):
        file.write(b"half")
        raise OSError("no space left")
    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError):
        module.save_checkpoint(path, {"x": 2})
    assert checkpoint(path)["x"] == 1


def test_a_checkpoint_is_read_to_the_cpu(tmp_path, monkeypatch):
    """It may come from a machine with a GPU."""
    module, given = load("a2c"), []
    folder = train(module, tmp_path, **small("a2c"))
    spy(monkeypatch, torch, "load", lambda *_, **options: given.append(options["map_location"]))
    module.load_checkpoint(str(folder / "model.pt"))
    assert given == ["cpu"]


@pytest.mark.parametrize("script", POLICY)
def test_second_ctrl_c_ends_at_once(script, tmp_path):
    """The first lets the rollout or batch at hand come to its end, which these never do."""
    endless = ["--env-id", "probes:Endless-v0"] if script in EPISODIC else ["--num-steps", "100000000"]
    process = start(script, "--total-timesteps", "100000000", *endless, cwd=tmp_path)
    assert process.stdout.readline().startswith("run folder: runs/")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=30) == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_that_cannot_be_written(script, tmp_path):
    (tmp_path / "runs").write_text("a file")
    result = call(script, *SMALL[script], cwd=tmp_path, status=2)
    assert len(result.err.splitlines()) == 1 and "runs" in result.err and "cannot be written" in result.err


@pytest.mark.parametrize("script", SCRIPTS)
def test_environment_without_render_mode(script, tmp_path):
    """Gymnasium does not ask for the argument."""
    env_id, probes = "test/Plain-v0", load("probes")
    plain = probes.LimitBox if script == "sac" else probes.Limit
    gym.register(env_id, entry_point=lambda: plain())
    try:
        call(script, *SMALL[script], "--env-id", env_id, cwd=tmp_path)
    finally:
        del gym.registry[env_id]
