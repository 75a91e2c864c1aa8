"""per_dqn.py in training: which errors become priorities, when, and how far beta has come. Its memory and its
sum tree are in test_replay.py."""
import numpy as np
import pytest
import torch
from common import SMALL, call, load, run_folder, train

per_dqn = load("per_dqn")


def test_priorities_in_training(tmp_path, monkeypatch):
    """Each batch gives its own, unweighted errors back before the next is drawn, with the numbers that were
    asked for; the highest priority so far goes to what is new; the loss has the weights of the batch."""
    kind, td_loss, seen = per_dqn.ReplayBuffer, per_dqn.td_loss, []
    sample, update = kind.sample, kind.update_priorities

    def watched_sample(self, batch_size, device, beta):
        newest = (self.count - (1 + self.n_step)) % self.size
        new = self.p_alpha[newest]
        drawn = sample(self, batch_size, device, beta)
        seen.append([beta, new, np.asarray(drawn.slot)])
        return drawn

    def watched_td_loss(batch, q_net, target_net):
        loss, td_error = td_loss(batch, q_net, target_net)
        with torch.no_grad():
            next_q = target_net(batch.next_obs).max(1).values
            y = batch.reward + batch.discount * (1 - batch.terminated) * next_q
            error = (y - q_net(batch.obs).gather(1, batch.action[:, None])[:, 0]).double()
        assert loss.item() == pytest.approx((batch.weight * error**2).mean().item(), rel=1e-4)
        seen[-1].append(error.abs().numpy())
        return loss, td_error

    def watched_update(self, slot, td_error, alpha, eps):
        assert (alpha, eps) == (0.7, 1e-3)
        update(self, slot, td_error, alpha, eps)
        seen[-1] += [np.asarray(slot), self.p_alpha[np.asarray(slot)], self.max_p_alpha]

    monkeypatch.setattr(kind, "sample", watched_sample)
    monkeypatch.setattr(kind, "update_priorities", watched_update)
    monkeypatch.setattr(per_dqn, "td_loss", watched_td_loss)
    train(per_dqn, tmp_path, total_timesteps=200, learning_starts=20, batch_size=16, buffer_size=100,
          train_frequency=1, eval_episodes=1, n_step=2, learning_rate=1e-2, per_alpha=0.7, per_beta=0.5,
          per_eps=1e-3)
    highest = 1.0
    assert len(seen) == 180 and min(part[5].min() for part in seen) < 0.7
    for i, (beta, new, slot, error, updated, p_alpha, at_most) in enumerate(seen):
        assert beta == pytest.approx(0.5 + 0.5 * (i + 21) / 200) and np.array_equal(slot, updated)
        assert new == pytest.approx(highest)
        assert p_alpha == pytest.approx((error + 1e-3) ** 0.7, abs=1e-3)
        highest = max(highest, p_alpha.max())
        assert at_most == highest
    assert highest > 1 and seen[79][0] == pytest.approx(0.75) and seen[179][0] == 1


def test_alpha_cannot_change_on_resuming(tmp_path):
    """The stored p^alpha would be of two alphas; beta and eps may change."""
    call("per_dqn", *SMALL["per_dqn"], "--per-alpha", "0.7", cwd=tmp_path)
    path = run_folder(tmp_path) / "checkpoint.pt"
    typed = "--per-alpha 0.5 --total-timesteps 350".split()
    refused = call("per_dqn", "--resume", path, *typed, cwd=tmp_path, status=1)
    assert "--per-alpha" in refused.err.splitlines()[-1]
    call("per_dqn", "--resume", path, "--total-timesteps", "350", "--per-beta", "0.5", "--per-eps", "1e-3",
         cwd=tmp_path)


def test_a_priority_of_zero_is_refused(tmp_path):
    """Where all TD errors are 0 nothing could be drawn, and weights would be 0 / 0."""
    refused = call("per_dqn", *SMALL["per_dqn"], "--per-eps", "0", cwd=tmp_path, status=1)
    assert "--per-eps" in refused.err.splitlines()[-1] and not list(tmp_path.iterdir())


def test_memory_of_the_tree_counts(monkeypatch):
    """What all arrays of a buffer for CartPole take is never more than the estimate that is compared to the
    machine's memory, and at most a third less."""
    for size in 1000, 1025, 2**20:
        buffer = per_dqn.ReplayBuffer(size, 1, (4,), 1, 0.99)
        arrays = [x for x in [*vars(buffer).values(), buffer.tree.node] if isinstance(x, np.ndarray)]
        taken = sum(array.nbytes for array in arrays if array.base is None)
        envs = per_dqn.make_envs(per_dqn.Args(), 1)
        for memory, enough in (0.99 * taken, False), (taken / 0.65, True):
            numbers = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": int(memory)}
            monkeypatch.setattr(per_dqn.os, "sysconf", numbers.__getitem__)
            if enough:
                per_dqn.check(per_dqn.Args(buffer_size=size), envs)
            else:
                with pytest.raises(SystemExit, match="--buffer-size"):
                    per_dqn.check(per_dqn.Args(buffer_size=size), envs)
        envs.close()
