"""The option --slow, and one thread for each test process: several tests run at a time."""
import os
import signal

for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:  # a job in the background ignores some
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser, pluginmanager):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, and only them")
    if not pluginmanager.hasplugin("xdist"):  # pyproject.toml asks for two processes: without xdist it is one
        parser.addoption("--numprocesses", help="ignored: pytest-xdist is not installed")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long; runs with --slow")


def pytest_collection_modifyitems(config, items):
    slow = [item for item in items if "slow" in item.keywords]
    fast = [item for item in items if "slow" not in item.keywords]
    items[:], deselected = (slow, fast) if config.getoption("--slow") else (fast, slow)
    config.hook.pytest_deselected(items=deselected)
