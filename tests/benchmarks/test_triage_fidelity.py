"""What the fidelity benchmark makes of an estimate that is undefined."""

import numpy as np

from benchmarks.goals import GOALS
from benchmarks.record import row
from benchmarks.triage_fidelity import _figure
from worldsim.stats.agreement import measure_agreement


def test_an_undefined_mmrv_is_missing_and_not_met():
    truth = np.random.default_rng(0).random((2, 12)) < 0.5
    report = measure_agreement(truth * 1.0, world=truth * 1.0, k=1, matched=True)
    figure = _figure(report, "mmrv")
    assert figure.value is None
    found = row(figure, GOALS["triage_fidelity"][figure.name])
    assert found["value"] is None and found["met"] is False
