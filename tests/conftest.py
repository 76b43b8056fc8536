"""One thread per worker, no network but loopback, no hub: set before anything heavy is imported."""

import os

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(_name, _value)

import socket
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("worldsim", deadline=None, derandomize=True)  # a busy machine is no failure
hypothesis.settings.load_profile("worldsim")
_connect = socket.socket.connect


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Who asks for the tests marked extras wants them run: one that is skipped has failed."""
    report = yield
    if report.skipped and item.get_closest_marker("extras"):
        report.outcome, report.longrepr = "failed", f"A test marked extras was skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any connection that leaves this machine fails the test."""

    def connect(self: socket.socket, address: object) -> None:
        local = self.family == socket.AF_UNIX or str(address[0]) in {"127.0.0.1", "::1", "localhost"}  # type: ignore[index]
        assert local, f"A test tried to reach {address}."
        _connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)
    yield


LONGEST = ("cli", "evaluate", "reason", "triage", "train", "integrations")
"""Folders whose files take longest; they come first, so that no core waits for the last of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files by how long they take; the order within a file stays."""
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)
