"""Tiny environments with known answers, as Gymnasium ids like probes:Probe1-v0.

1 to 5 are Andy Jones's (Debugging Reinforcement Learning Systems, 2021). After Probe9 come spaces and
rewards that scripts must take or refuse.
"""
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

VECTOR = Box(-np.inf, np.inf, (1,), np.float32)
TORQUE = Box(-1, 1, (1,), np.float32)


class Probe(gym.Env):
    """Base: `t` counts the steps of an episode, `obs` is a number or an array that fits observation_space."""

    observation_space, action_space, length = VECTOR, Discrete(1), 1
    terminal = True  # what the end of an episode is: a terminal state, or a time limit

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.array = np.zeros(1, np.float32)  # every observation is in it, as an environment may do

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.obs = 0, self.first()
        return self.pack(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        reward = self.reward(action)
        self.t += 1
        self.obs = self.next()
        ended = self.t == self.length
        return self.pack(), float(reward), ended and self.terminal, ended and not self.terminal, {}

    def pack(self):
        self.array[:] = self.obs
        return self.array

    def first(self):
        return 0.0

    def next(self):
        return self.obs

    def reward(self, action):
        return 1.0


class Probe1(Probe):
    """Q = 1."""


class Probe2(Probe):
    """Q(+1) = 1, Q(-1) = -1."""

    def first(self):
        return float(self.np_random.choice([-1, 1]))

    def reward(self, action):
        return self.obs


class Probe3(Probe):
    """Q(1) = 1, Q(0) = gamma."""

    length = 2

    def next(self):
        return float(self.t)

    def reward(self, action):
        return self.t


class Probe4(Probe):
    """Q = [-1, 1]."""

    action_space = Discrete(2)

    def reward(self, action):
        return 2 * action - 1


class Probe5(Probe2):
    """Q(s, the action of its sign) = 1, the other -1."""

    action_space = Discrete(2)

    def reward(self, action):
        return 1 if (action == 1) == (self.obs > 0) else -1


class Probe6(Probe):
    """Q = 1 / (1 - gamma): cut by a time limit after 10 steps."""

    length, terminal = 10, False


class Probe7(Probe):
    """Observation: 10 times the number of the episode, plus the step in it."""

    length, episode = 2, -1

    def first(self):
        self.episode += 1
        return 10.0 * self.episode

    def next(self):
        return 10.0 * self.episode + self.t


class Apart(Probe7):
    """The same, but every other episode begins at its second step, after an odd seed the first one: side by
    side, environments seldom end together."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.phase = self.episode + seed if seed is not None else self.phase
        self.t = (self.phase - self.episode) % 2
        self.obs += self.t
        return self.pack(), {}


class Probe8(Probe):
    """No reward, one step: only the entropy counts."""

    action_space = TORQUE

    def reward(self, action):
        return 0


class Aim(Probe8):
    """The best torque is 1."""

    action_space = Box(-3, 3, (1,), np.float32)

    def reward(self, action):
        return -abs(action[0] - 1)


class Probe10(Probe5):
    """Two steps: 1 or -1, then its double. Q(double, action of its sign) = 1, the other -1; gamma before."""

    length = 2

    def next(self):
        return 2 * self.obs

    def reward(self, action):
        return super().reward(action) if self.t else 0


class Probe9(Probe3):
    """Probe 3 with a continuous action."""

    action_space = TORQUE


class Limit(Probe):
    """Reward 3 in each of the 5 steps up to the time limit; any of two actions."""

    action_space, length, terminal = Discrete(2), 5, False

    def reward(self, action):
        return 3


class Start5(Probe4):
    """The actions are 5 and 6, of 32 bits; 6 is right."""

    action_space = Discrete(2, start=5, dtype=np.int32)

    def reward(self, action):
        return 2 * (action - 5) - 1


class NaNReward(Limit):
    """The reward is not a number at the 700th step of an environment, and only there."""

    steps = 0

    def reward(self, action):
        self.steps += 1
        return np.nan if self.steps == 700 else 0


class DictObs(Probe4):
    observation_space = Dict(place=VECTOR, speed=VECTOR)

    def pack(self):
        return {"place": super().pack(), "speed": super().pack()}


class Unseen(Probe):
    metadata = {"render_modes": ["rgb_array"]}

    def render(self):
        pass


class SmallImage(Probe4):
    observation_space = Box(0, 255, (10, 10, 4), np.uint8)

    def pack(self):
        return np.zeros((10, 10, 4), np.uint8)


class Float64(Probe4):
    observation_space = Box(-np.finfo(np.float64).max, np.finfo(np.float64).max, (1,), np.float64)

    def pack(self):
        return super().pack().astype(np.float64)


class Frames(Probe4):
    """Pixels, other ones in each of the 12 steps of an episode; rewards 3 and -3."""

    observation_space, length = Box(0, 255, (4, 84, 84), np.uint8), 12

    def first(self):
        return self.np_random.integers(256, size=(4, 84, 84), dtype=np.uint8)

    def next(self):
        return np.roll(self.obs, 7)

    def pack(self):
        return self.obs

    def reward(self, action):
        return 6 * action - 3


class FloatFrames(Frames):
    observation_space = Box(0, 1, (4, 84, 84), np.float32)

    def pack(self):
        return self.obs / np.float32(255)


class Endless(Probe4):
    length = 10**12


class MatrixObs(Probe4):
    observation_space = Box(-1, 1, (2, 3), np.float32)

    def pack(self):
        return np.zeros((2, 3), np.float32)


class ByteVector(Probe4):
    """A vector of bytes, like an Atari game's RAM: numbers, no pixels."""

    observation_space = Box(0, 255, (3,), np.uint8)

    def pack(self):
        return np.zeros(3, np.uint8)


class IntVector(Probe4):
    observation_space = Box(0, 255, (3,), np.int64)

    def pack(self):
        return np.zeros(3, np.int64)


class InfiniteBox(Probe8):
    action_space = Box(-np.inf, np.inf, (1,), np.float32)


class HalfOpenBox(Probe8):
    """One bound of four is infinite."""

    action_space = Box(np.array([-1, -1], np.float32), np.array([1, np.inf], np.float32))


class WholeBox(Probe8):
    """Whole numbers in a Box."""

    action_space = Box(-3, 3, (1,), np.int64)


class LimitBox(Limit):
    """Limit, and the three below their namesakes, with a continuous action."""

    action_space = TORQUE


class ApartBox(Apart):
    action_space = TORQUE


class NaNRewardBox(NaNReward):
    """It takes an action that is not a number, too, as most environments do."""

    action_space = TORQUE

    def step(self, action):
        return super().step(np.nan_to_num(action))


class Float64Box(Float64):
    action_space = TORQUE

    def reward(self, action):
        return 0


class Asymmetric(Probe9):
    """Two torques with bounds of their own; the reward is their sum."""

    action_space = Box(np.array([-1, 3], np.float32), np.array([0.5, 10], np.float32))

    def reward(self, action):
        return action.sum()


class Torques(Probe9):
    """Two torques between -1 and 1; the reward knows nothing of them."""

    action_space = Box(-1, 1, (2,), np.float32)


class WideTorques(Torques):
    """The same with other bounds, in float64 and in rows and columns."""

    action_space = Box(np.array([[-30], [2]]), np.array([[-10], [7]]), dtype=np.float64)


class FarTorques(Torques):
    """The same with other bounds, in float64."""

    action_space = Box(np.array([-30, 2]), np.array([-10, 7]), dtype=np.float64)


class TwoWheels(Probe4):
    """Two discrete actions at once; the reward counts those that are 1, less one."""

    action_space = MultiDiscrete([2, 3])

    def reward(self, action):
        return (np.asarray(action) == 1).sum() - 1


class TupleAction(Probe4):
    action_space = gym.spaces.Tuple([Discrete(2), Discrete(3)])


class Switches(Probe4):
    action_space = gym.spaces.MultiBinary(3)


for name, cls in list(globals().items()):
    if isinstance(cls, type) and issubclass(cls, Probe) and cls is not Probe:
        gym.register(f"{name}-v0", entry_point=cls)
