"""Error curves for tests."""

from worldsim.validity.curve import ErrorCurve, Unit
from worldsim.validity.validity import Validity

HORIZONS = (1, 8, 16)


def curve(
    *world: float,
    quantity: str = "pictures",
    unit: Unit = "grey levels",
    copying: tuple[float, ...] = (),
    **more: object,
) -> ErrorCurve:
    """A curve whose world errs by these; copying errs by 4, 10 and 14, a constant by 20."""
    count = len(world)
    values: dict[str, object] = {
        "horizons": HORIZONS[:count],
        "bound": tuple(2 * v for v in world),
        "copying": copying or (4.0, 10.0, 14.0)[:count],
        "constant": (20.0,) * count,
        "episodes": (24,) * count,
    }
    return ErrorCurve(quantity=quantity, unit=unit, world=world, **{**values, **more})  # type: ignore[arg-type]


def validity(*curves: ErrorCurve, horizon: int | None = 16, **more: object) -> Validity:
    """A world measured by these curves, its outcome read from the first."""
    return Validity(curves=curves, read_from=(curves[0].quantity,), horizon=horizon, episodes=24, **more)  # type: ignore[arg-type]


GOOD = validity(curve(5.0, 5.0, 6.0))
FAILED = validity(curve(5.0, 11.0, 18.0), horizon=0)
