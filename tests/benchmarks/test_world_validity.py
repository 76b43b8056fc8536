import torch

from benchmarks.world_validity import Found, below_bounds, figures
from tests.validity.examples import FAILED, GOOD, HORIZONS, curve, validity
from worldsim.evaluate.open_loop import Errors
from worldsim.validity.validity import Spread


def test_errors_are_compared_with_the_bound_of_their_horizon() -> None:
    nan = float("nan")
    own = torch.tensor([[9.0, 11.0, nan], [11.0, 9.0, 13.0]])  # bounds are 10, 10 and 12
    errors = Errors(quantity="pictures", unit="grey levels", world=own, copying=own, constant=own)
    assert below_bounds(errors, HORIZONS, GOOD).tolist() == [True, False, False, True, False]
    assert below_bounds(Errors(**{**vars(errors), "quantity": "progress"}), HORIZONS, GOOD).tolist() == []


def test_a_usable_world_that_loses_to_copying_is_counted() -> None:
    spread = Spread(quantity="pictures", horizons=(8, 16, 32), mean=(0.1, 0.2, 0.3), rank=(0.7, 0.5, None))
    held = Found(stated=GOOD, other=validity(curve(5.0, 5.0, 6.0), spread=spread), held=0.9, checked=100)
    lost = Found(stated=GOOD, other=validity(curve(5.0, 11.0, 18.0)), held=0.7, checked=100)
    named = Found(stated=FAILED, other=FAILED, held=0.92, checked=100)  # not called usable
    found = {f.name: f.value for f in figures([held, lost, named])}
    assert held.beats_copying and not lost.beats_copying and held.ranks == (0.7, 0.5)
    assert found["worlds called usable that do not beat copying"] == 1
    assert found["spread against error, Spearman, lowest"] == 0.5
    assert found["worlds whose mean spread rises with the horizon"] == 100
    assert round(found["stated 90 % bounds: distance of that from 90 %"], 6) == 6
