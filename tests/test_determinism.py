"""Two processes with the same seed leave the same bits."""
import pytest
from common import (
    FRAMES,
    PIXELS,
    REPLAY,
    SCRIPTS,
    SMALL,
    VALUE,
    checkpoint,
    differences,
    end,
    events,
    run_folder,
    start,
    takes,
)

LONGER = {script: ["--total-timesteps", "1500", "--buffer-size", "1000"] if script in REPLAY else
          ["--total-timesteps", "1500"] for script in SCRIPTS}


def runs(script, tmp_path, *flags, seeds):
    """Folders of runs at the same time, in processes of their own."""
    started = []
    for i, seed in enumerate(seeds):
        (tmp_path / f"{i}").mkdir()
        started.append(start(script, *flags, "--seed", seed, cwd=tmp_path / f"{i}"))
    outs = [end(process).out.splitlines()[-1] for process in started]
    return [run_folder(tmp_path / f"{i}") for i in range(len(seeds))], outs


def assert_equal(a, b):
    assert events(a) == events(b)
    for name in "checkpoint.pt", "model.pt":
        assert differences(checkpoint(a / name), checkpoint(b / name)) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_same_seed_same_bits(script, tmp_path):
    flags = ["--num-envs", "3", *["--n-step", "3"] * (script in VALUE)]
    (a, b, c), outs = runs(script, tmp_path, *SMALL[script], *LONGER[script], *flags, seeds=["1", "1", "2"])
    assert len(events(a)) >= 3 and outs[0] == outs[1]
    assert_equal(a, b)
    assert events(a)["charts/episodic_return"] != events(c)["charts/episodic_return"]
    different = differences(checkpoint(a / "model.pt"), checkpoint(c / "model.pt"))
    assert any("weight" in line for line in different) and "/args/seed: 1 and 2" in different


@pytest.mark.parametrize("script", PIXELS)
def test_same_seed_same_bits_on_pixels(script, tmp_path):
    """The game's threads do not change the order of anything."""
    flags = ["--num-envs", "3", *["--n-step", "3", "--train-frequency", "20"] * (script in VALUE)]
    flags += ["--value-epochs", "2"] * takes(script, "--value-epochs")
    (a, b), outs = runs(script, tmp_path, *SMALL[script], *FRAMES[script], *flags, seeds=["1", "1"])
    assert outs[0] == outs[1]
    assert_equal(a, b)


def test_equality_is_of_bits():
    import torch
    a = {"x": torch.tensor([0.0, 1.0]), "y": [1, {"z": 2.0}], "args": {"resume": "a", "seed": 1}}
    assert differences(a, {**a, "args": {"resume": "b", "seed": 1}}) == []
    for other in ({**a, "x": torch.tensor([-0.0, 1.0])}, {**a, "x": torch.tensor([0.0, 1.0]).double()},
                  {**a, "y": [1, {"z": 2}]}, {**a, "y": [1]}, {"x": a["x"]}, {**a, "args": {"seed": 2}}):
        assert differences(a, other)
