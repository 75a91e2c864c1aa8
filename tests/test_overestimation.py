"""benchmark/overestimation.py: its two values by hand, and that watching a run does not change it."""
import sys

import numpy as np
import pytest
import torch
from common import ROOT, as_it_was, load, run_folder, train

sys.path.insert(0, str(ROOT / "benchmark"))
import overestimation  # noqa: E402

SMALL = {"total_timesteps": 300, "learning_starts": 60, "batch_size": 16, "gamma": 0.99, "eval_episodes": 2}


class Constant(torch.nn.Module):
    def __init__(self, q):
        super().__init__()
        self.q = torch.tensor(q)

    def forward(self, obs):
        return self.q.expand(len(obs), -1)


@pytest.mark.parametrize("env_id, gamma, realised", [
    ("probes:Probe3-v0", 0.9, 0.95),  # rewards 0 and 1: .9 and 1
    ("probes:Probe4-v0", 0.9, 1),  # the second action, which has the higher Q
])
def test_values_by_hand(env_id, gamma, realised):
    q = [5.0] if "3" in env_id else [-1.0, 5.0]
    assert overestimation.values(Constant(q), env_id, 1, gamma) == pytest.approx((5, realised))


def test_what_is_cut_off_is_left_out(monkeypatch):
    """Reward 1, a limit of 50 steps in place of 1500: states with fewer than 20 steps before it are left out,
    from the others on the return is a sum of 20 to 50 powers."""
    monkeypatch.setattr(overestimation, "HORIZON", 20)
    monkeypatch.setattr(overestimation, "STEPS", 50)
    overestimation.gym.register("NoEnd-v0", NoEnd)
    sums = [(1 - 0.9**k) / 0.1 for k in range(20, 51)]
    assert overestimation.values(Constant([5.0]), "NoEnd-v0", 1, 0.9) == pytest.approx((5, np.mean(sums)))


class NoEnd(overestimation.EqualActions):
    def step(self, action):
        return self.observe(), 1.0, False, False, {}


def test_measuring_changes_nothing(tmp_path):
    dqn = load("dqn")
    (tmp_path / "a").mkdir()
    with as_it_was(tmp_path / "a"):
        (row,) = overestimation.measure("dqn", 3, 300, {"env_id": "CartPole-v1", **SMALL})
    assert row["step"] == 300 and dqn.Run.__name__ == "Run"
    folder = train(dqn, tmp_path, seed=3, **SMALL)
    q_net = dqn.QNetwork((4,), 2)
    q_net.load_state_dict(torch.load(run_folder(tmp_path) / "model.pt", weights_only=True)["q_net"])
    estimate, realised = overestimation.values(q_net, "CartPole-v1", overestimation.episodes(3, 300), 0.99)
    assert folder == run_folder(tmp_path)
    assert (row["estimate"], row["realised"]) == (f"{estimate:.4f}", f"{realised:.4f}")
