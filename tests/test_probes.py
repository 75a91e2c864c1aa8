"""Tiny environments, learned in seconds to the exact value."""
import pytest
import torch
from common import VALUE, checkpoint, load, train

SETTINGS = {"total_timesteps": 2500, "learning_starts": 50, "train_frequency": 1, "batch_size": 32,
            "target_network_frequency": 20, "buffer_size": 500, "learning_rate": 3e-3, "eval_episodes": 1}
CALMER = {"noisy_dqn": {"total_timesteps": 3000, "buffer_size": 3000, "learning_rate": 1e-3}}  # than SETTINGS
# environment: {observation: values of the actions}, for a discount of .99 if not told otherwise
PROBES = {
    "Probe1": {0: [1]},
    "Probe2": {-1: [-1], 1: [1]},
    "Probe3": {0: [0.99], 1: [1]},
    "Probe4": {0: [-1, 1]},
    "Probe5": {-1: [1, -1], 1: [-1, 1]},
    "Start5": {0: [-1, 1]},
}


def values(module, folder, obs, num_actions):
    """Q(obs, .) of the network that a run left."""
    model = checkpoint(folder / "model.pt")
    form = [model["args"]["noise"]] if "noise" in model["args"] else []  # which noisy_dqn's network asks for
    q_net = module.QNetwork((1,), num_actions, *form)
    q_net.load_state_dict(model["q_net"])
    return q_net.eval()(torch.tensor([[float(obs)]]))[0].tolist()


@pytest.mark.parametrize("script", VALUE)
@pytest.mark.parametrize("probe", PROBES)
def test_probe(script, probe, tmp_path):
    module = load(script)
    folder = train(module, tmp_path, env_id=f"probes:{probe}-v0", **SETTINGS | CALMER.get(script, {}))
    for obs, expected in PROBES[probe].items():
        assert values(module, folder, obs, len(expected)) == pytest.approx(expected, abs=0.05), obs


@pytest.mark.parametrize("script", VALUE)
@pytest.mark.parametrize("num_envs, n_step", [(1, 1), (3, 4)])
def test_a_time_limit_is_no_end(script, num_envs, n_step, tmp_path):
    """Reward 1 a step, cut at 10, gamma .9: 10. Not 5.26 or 4.14, an end at the limit; nor 9.09, with made-up
    steps."""
    module = load(script)
    settings = {**SETTINGS, **CALMER.get(script, {}), "gamma": 0.9, "num_envs": num_envs, "n_step": n_step}
    folder = train(module, tmp_path, env_id="probes:Probe6-v0", **settings)
    tolerance = 0.5 if script in CALMER else 0.05  # the noise in the targets does not average out
    assert values(module, folder, 0, 1) == pytest.approx([10.0], abs=tolerance)


@pytest.mark.parametrize("script", VALUE)
@pytest.mark.parametrize("num_envs, n_step", [(1, 1), (3, 1), (2, 3)])
def test_no_transition_goes_from_one_episode_to_the_next(script, num_envs, n_step, tmp_path, monkeypatch):
    """Probe 7, which numbers its observations: 10 * episode + step, two steps."""
    module, batches = load(script), []
    td_loss = module.td_loss
    monkeypatch.setattr(module, "td_loss", lambda *args: batches.append(args[0]) or td_loss(*args))
    train(module, tmp_path, env_id="probes:Probe7-v0", num_envs=num_envs, n_step=n_step, gamma=0.5,
          **{**SETTINGS, "total_timesteps": 300, "buffer_size": 40})
    obs, next_obs, terminated, discount = (torch.cat([getattr(batch, name) for batch in batches]).squeeze()
                                           for name in ("obs", "next_obs", "terminated", "discount"))
    steps = next_obs - obs
    left = 2 - obs % 10  # steps to the end
    assert set(obs.long().remainder(10).tolist()) == {0, 1} and len(obs.unique()) > 40
    assert torch.equal(steps, left.clamp(max=n_step)) and torch.equal(discount, 0.5 ** steps)
    assert torch.equal(terminated, (left <= n_step).float())
