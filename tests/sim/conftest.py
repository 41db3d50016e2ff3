"""`--seed N` replays one world of the campaign."""


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=None, help="replay this world of the simulated campaign")
