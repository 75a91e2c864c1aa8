"""A trial: the whole update of dqn.py (frames) and of sac.py (vectors) as one CUDA graph.

    python benchmark/graphs.py --device cuda        prints a line of JSON for each script

Each batch is copied into tensors that stay where they are; loss, backward and Adam (capturable) are captured
once and replayed. The script's own update is timed in turn with it, on the same batches, from the same first
weights. `error` is the largest difference of a weight after 100 updates (--updates, if fewer), relative to
the largest weight of its tensor. Without CUDA the same function is called in place of the graph, to rehearse.
"""
import argparse
import copy
import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import dqn  # noqa: E402
import sac  # noqa: E402


def dqn_batches(count: int) -> list[dqn.Batch]:
    frames = (32, 4, 84, 84)
    return [dqn.Batch(torch.randint(256, frames, dtype=torch.uint8), torch.randint(6, (32,)), torch.randn(32),
                      torch.full((32,), 0.99), torch.zeros(32), torch.randint(256, frames, dtype=torch.uint8))
            for _ in range(count)]


def dqn_update(device: str, capturable: bool):
    """An update of one batch on the device, the modules whose weights it changes, and its optimizers."""
    torch.manual_seed(1)
    q_net = dqn.QNetwork((4, 84, 84), 6).to(device)
    target_net = copy.deepcopy(q_net)
    optimizer = torch.optim.Adam(q_net.parameters(), lr=1e-4, eps=1.5e-4, fused=True, capturable=capturable)

    def update(*batch: torch.Tensor) -> None:
        loss = dqn.td_loss(dqn.Batch(*batch), q_net, target_net)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return update, [q_net], [optimizer]


def sac_batches(count: int) -> list[tuple[torch.Tensor, ...]]:
    """Batches of Hopper's sizes, with the noise of both draws, as a graph replays a draw's numbers."""
    return [(torch.randn(256, 11), torch.rand(256, 3) * 2 - 1, torch.randn(256), torch.zeros(256),
             torch.randn(256, 11), torch.randn(256, 3), torch.randn(256, 3)) for _ in range(count)]


def sac_update(device: str, capturable: bool):
    torch.manual_seed(1)
    policy, critic = sac.Policy(11, 3).to(device), sac.Critic(11, 3).to(device)
    target_critic, log_alpha = copy.deepcopy(critic), nn.Parameter(torch.zeros((), device=device))
    optimizers = [torch.optim.Adam(params, lr=3e-4, fused=True, capturable=capturable)
                  for params in (policy.parameters(), critic.parameters(), [log_alpha])]

    def update(obs, action, reward, terminated, next_obs, next_noise, noise) -> None:
        """As in sac.train, with the noise from outside."""
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_action, next_logp = sac.squash(*policy(next_obs), next_noise)
            next_q = target_critic(next_obs, next_action)
            y = sac.soft_target(reward, terminated, next_q, next_logp, alpha, 0.99)
        optimizers[1].zero_grad()
        sac.critic_loss(critic(obs, action), y).backward()
        optimizers[1].step()
        new_action, logp = sac.squash(*policy(obs), noise)
        optimizers[0].zero_grad()
        sac.policy_loss(logp, critic(obs, new_action), alpha).backward(inputs=list(policy.parameters()))
        optimizers[0].step()
        optimizers[2].zero_grad()
        sac.temperature_loss(log_alpha, logp, -3).backward()
        optimizers[2].step()
        sac.polyak_update(target_critic, critic, 0.005)
    return update, [policy, critic, target_critic, nn.ParameterList([log_alpha])], optimizers


def captured(update, nets: list[nn.Module], optimizers: list, batch, device: str):
    """A function that copies a batch into the graph's tensors and replays `update` on it. Warming up changes
    the weights, so they are put back, and Adam's moments set to zero."""
    static = [x.to(device) for x in batch]
    if device != "cuda":
        def replay(*new: torch.Tensor) -> None:
            for x, value in zip(static, new, strict=True):
                x.copy_(value)
            update(*static)
        return replay
    weights = [copy.deepcopy(net.state_dict()) for net in nets]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            update(*static)
    torch.cuda.current_stream().wait_stream(side)
    for optimizer in optimizers:
        optimizer.zero_grad()  # so that the gradients are allocated in the graph's memory
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update(*static)
    with torch.no_grad():
        for net, old in zip(nets, weights, strict=True):
            net.load_state_dict(old)
        for optimizer in optimizers:
            for moments in optimizer.state.values():
                for x in moments.values():
                    x.zero_()

    def replay(*new: torch.Tensor) -> None:
        for x, value in zip(static, new, strict=True):
            x.copy_(value, non_blocking=True)
        graph.replay()
    return replay


def trial(name: str, device: str, updates: int) -> dict:
    make_batches, make_update = {"dqn": (dqn_batches, dqn_update), "sac": (sac_batches, sac_update)}[name]
    torch.manual_seed(0)
    batches = make_batches(min(100, updates))
    update, nets, _ = make_update(device, capturable=False)
    _, *rest = made = make_update(device, capturable=device == "cuda")
    replay = captured(*made, batches[0], device)

    def eager(*batch: torch.Tensor) -> None:
        update(*(x.to(device) for x in batch))

    for batch in batches:
        eager(*batch)
        replay(*batch)
    pairs = [(a.detach(), b.detach()) for own, other in zip(nets, rest[0], strict=True)
             for a, b in zip(own.parameters(), other.parameters(), strict=True)]
    error = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-8)) for a, b in pairs)
    times = {"eager": 0.0, "graph": 0.0}
    for _ in range(4):  # in turn
        for kind, step in ("eager", eager), ("graph", replay):
            wait(device)
            began = time.perf_counter()
            for i in range(updates // 4):
                step(*batches[i % len(batches)])
            wait(device)
            times[kind] += time.perf_counter() - began
    each = {f"{kind} ms": round(1000 * seconds / (updates // 4 * 4), 4) for kind, seconds in times.items()}
    return {"script": f"{name}.py", "device": device, **each,
            "times": round(times["eager"] / times["graph"], 2), "error": error}


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu", "mps"])
    parser.add_argument("--updates", type=int, default=2000)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    for name in ("dqn", "sac"):
        print(json.dumps(trial(name, options.device, options.updates)), flush=True)


if __name__ == "__main__":
    main()
