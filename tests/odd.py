"""Environments of the kinds that users' reports are about, as Gymnasium ids like odd:Info-v0.

Those whose names end in Box have a continuous action. The reports are cited in test_reports.py.
"""
import random

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import FrameStackObservation
from probes import TORQUE, Probe, Probe4


class Stacks(Probe4):
    """Stacks of 4 frames, zeros before the first, 12 steps; each frame is seen once. Rewards 3 and -3."""

    observation_space, length = Box(0, 255, (4, 84, 84), np.uint8), 12

    def first(self):
        self.stack = np.zeros((4, 84, 84), np.uint8)
        return self.next()

    def next(self):
        self.stack = np.roll(self.stack, -1, axis=0)
        self.stack[-1] = self.np_random.integers(1, 256, size=(84, 84), dtype=np.uint8)
        return self.stack

    def pack(self):
        return self.obs.copy()

    def reward(self, action):
        return 6 * action - 3


class Channels(Stacks):
    """Four channels of a picture, which are no history."""

    def first(self):
        self.stack = np.ones((4, 84, 84), np.uint8)
        return self.stack


class Frame(Probe4):
    """One frame, of ones."""

    observation_space, length = Box(0, 255, (84, 84), np.uint8), 12

    def pack(self):
        return np.ones((84, 84), np.uint8)


class Padded(gym.Wrapper):
    """Its stacks begin with the first frame four times, Gymnasium's default."""

    def __init__(self, render_mode=None):
        super().__init__(FrameStackObservation(Frame(), 4))


class Info(Probe4):
    """`info` is another one at each step: of other keys, lengths, types and depths, or empty."""

    length = 7

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed, options=options)
        return obs, {"at": None, "deep": {"x": np.zeros(2)}}

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        infos = [{}, {"at": self.t, "seen": np.zeros(self.t)}, {"at": None, "seen": np.zeros((self.t, 2))},
                 {"at": "wall", "deep": {"x": np.zeros(3), "y": {"z": None}}}, {"deep": 5, "seen": [1, "b"]}]
        info = {"final": {"rank": self.t, "name": "end"}} if terminated else infos[self.np_random.integers(5)]
        return obs, reward, terminated, truncated, info


class OnlyOne(Probe4):
    """A second one beside it is refused."""

    metadata, alive = {"render_modes": ["rgb_array"]}, 0

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        if OnlyOne.alive:
            raise RuntimeError("the simulator is in use")
        OnlyOne.alive += 1

    def close(self):
        OnlyOne.alive -= 1


class Global(Probe4):
    """Observations and rewards come from the global generators of random and NumPy, whatever the seed."""

    length = 5

    def first(self):
        return random.random()

    def next(self):
        return np.random.rand()

    def reward(self, action):
        return random.random() + np.random.rand()


class Asserts(Probe4):
    """It cannot be made."""

    def __init__(self, render_mode=None):
        assert render_mode == "never", "no licence"


class LacksKey(Probe4):
    def __init__(self, render_mode=None):
        raise KeyError("wheels")


class Filmed(Probe4):
    """10 steps, with small pictures that change."""

    metadata, length = {"render_modes": ["rgb_array"], "render_fps": 10}, 10

    def render(self):
        return np.full((32, 32, 3), 20 * self.t, np.uint8)


class LongFilm(Filmed):
    """1,000 steps. Each picture has 40 MB, and takes no memory."""

    length = 1000

    def render(self):
        return np.broadcast_to(np.uint8(0), (4000, 10_000 // 3, 3))


class Torque(Probe):
    """One step; the nearer the action is to three quarters of its range, the better, from -0.75 to 0."""

    action_space = Box(-1, 1, (1,), np.float32)

    def reward(self, action):
        space = self.action_space
        return -np.abs((action - space.low) / (space.high - space.low) - 0.75).mean()


class Small(Torque):
    action_space = Box(-0.03, -0.01, (1,), np.float32)


class Large(Torque):
    action_space = Box(300, 340, (1,), np.float32)


class Unequal(Torque):
    action_space = Box(np.array([-5000, 2], np.float32), np.array([1000, 2.5], np.float32))


class Shifted(Probe4):
    """Two actions at once, which begin at 3 and -1; the reward counts 4 and -1."""

    action_space = gym.spaces.MultiDiscrete([2, 3], start=[3, -1])

    def reward(self, action):
        return int(action[0] == 4) + int(action[1] == -1)


class Pull:
    """A continuous action in place of a discrete one."""

    action_space = TORQUE

    def reward(self, action):
        return float(action[0])


class InfoBox(Pull, Info):
    pass


class OnlyOneBox(Pull, OnlyOne):
    pass


class FilmedBox(Pull, Filmed):
    pass


class GlobalBox(Global):
    action_space = TORQUE


for name, cls in list(globals().items()):
    if isinstance(cls, type) and issubclass(cls, gym.Env) and cls.__module__ == __name__:
        gym.register(f"{name}-v0", entry_point=cls)
