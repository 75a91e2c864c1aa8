"""Two processes with the same seed leave the same bits."""
import pytest
from common import (
    REPLAY,
    SCRIPTS,
    SMALL,
    VALUE,
    call,
    checkpoint,
    differences,
    end,
    events,
    run_folder,
    start,
)

LONGER = {script: ["--total-timesteps", "1500", "--buffer-size", "1000"] if script in REPLAY else
          ["--total-timesteps", "1500"] for script in SCRIPTS}


def assert_equal(a, b):
    assert events(a) == events(b)
    for name in "checkpoint.pt", "model.pt":
        assert differences(checkpoint(a / name), checkpoint(b / name)) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_same_seed_same_bits(script, tmp_path):
    """Two processes at the same time; on pixels test_resume compares as many. Another seed, other bits."""
    flags = [*SMALL[script], *LONGER[script], "--num-envs", "3", *["--n-step", "3"] * (script in VALUE)]
    for name in "abc":
        (tmp_path / name).mkdir()
    started = [start(script, *flags, cwd=tmp_path / name) for name in "ab"]
    call(script, *flags, "--seed", "2", cwd=tmp_path / "c")
    outs = [end(process).out.splitlines()[-1] for process in started]
    a, b, c = (run_folder(tmp_path / name) for name in "abc")
    assert len(events(a)) >= 3 and outs[0] == outs[1]
    assert_equal(a, b)
    assert events(a)["charts/episodic_return"] != events(c)["charts/episodic_return"]
    different = differences(checkpoint(a / "model.pt"), checkpoint(c / "model.pt"))
    assert any("weight" in line for line in different) and "/args/seed: 1 and 2" in different


def test_equality_is_of_bits():
    import torch
    a = {"x": torch.tensor([0.0, 1.0]), "y": [1, {"z": 2.0}], "args": {"resume": "a", "seed": 1}}
    assert differences(a, {**a, "args": {"resume": "b", "seed": 1}}) == []
    for other in ({**a, "x": torch.tensor([-0.0, 1.0])}, {**a, "x": torch.tensor([0.0, 1.0]).double()},
                  {**a, "y": [1, {"z": 2}]}, {**a, "y": [1]}, {"x": a["x"]}, {**a, "args": {"seed": 2}}):
        assert differences(a, other)
