"""Checks that a checkpoint's normalisers hold the statistics they need: LeRobot passes data through unchanged where they do not."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from worldsim.errors import StorageError

_NEEDED = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}


def check_statistics(path: Path, config: Any, *, before: Any, after: Any) -> None:
    """Check the statistics of every feature that the policy's config says is normalised.

    Args:
        path: The checkpoint, for messages.
        config: LeRobot's policy config.
        before: LeRobot's pipeline in front of the network.
        after: LeRobot's pipeline behind it.

    Raises:
        StorageError: A normaliser is missing, or lacks statistics of a feature, or they are not finite, of another shape, or
            without spread in a camera or in all channels of a vector; every feature is named with what is wrong.
    """
    wrong: list[str] = []
    for features, pipeline in ((config.input_features, before), (config.output_features, after)):
        steps = [step for step in pipeline.steps if hasattr(step, "_tensor_stats")]
        for key, feature in (features or {}).items():
            mode = config.normalization_mapping.get(feature.type.value)
            name = "IDENTITY" if mode is None else mode.value
            if name != "IDENTITY" and ".empty_camera" not in key:
                wrong += [f"{key} {fault}" for fault in _faults(key, feature, name, steps)]
    if wrong:
        raise StorageError(
            f"{path} would act without its normalisation: {'; '.join(wrong)}. Save the processors again with the statistics "
            "of the training data (`make_pre_post_processors(config, dataset_stats=dataset.meta.stats)`)."
        )


def _faults(key: str, feature: Any, mode: str, steps: list[Any]) -> Iterator[str]:
    """What is wrong with the statistics of one feature."""
    acting = [step for step in steps if key in step.features and _acts_on(step, key)]
    if not acting:
        yield f"is {mode} in the policy's config, but no normaliser acts on it"
        return
    for step in acting:
        found: Mapping[str, Tensor] = step._tensor_stats.get(key, {})
        used = step.norm_map[step.features[key].type].value
        if used != mode:
            yield f"is {mode} in the policy's config and {used} in the processor"
            continue
        missing = [name for name in _NEEDED.get(mode, ()) if name not in found]
        if missing:
            others = sorted(step._tensor_stats)
            yield f"lacks {' and '.join(missing)} (there are statistics of {', '.join(others) or 'nothing'})"
            continue
        yield from _faults_of_values(feature, mode, [found[name] for name in _NEEDED[mode]])


def constant_channels(config: Any, before: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Channels of the inputs that never changed in training (a locked joint): their places int64 [N], and values [N], by feature.

    A normaliser divides by their spread of zero, so that the least noise in them drowns everything else.

    Args:
        config: LeRobot's policy config.
        before: LeRobot's pipeline in front of the network, checked by `check_statistics`.
    """
    found = {}
    for step in (step for step in before.steps if hasattr(step, "_tensor_stats")):
        for key, feature in (config.input_features or {}).items():
            mode = step.norm_map.get(feature.type.value) if key in step.features and _acts_on(step, key) else None
            if mode is None or mode.value not in _NEEDED or feature.type.value == "VISUAL":
                continue
            low, high = (step._tensor_stats[key][name].float().cpu() for name in _NEEDED[mode.value])
            places = (high if mode.value == "MEAN_STD" else high - low).eq(0).nonzero().flatten()
            if len(places):
                found[key] = (places, low[places])
    return found


def _acts_on(step: Any, key: str) -> bool:
    """Whether a normaliser changes a feature: it may be limited to some, and a mode may be to leave alone."""
    chosen = step.normalize_observation_keys
    mode = step.norm_map.get(step.features[key].type)
    return (chosen is None or key in chosen or key == "action") and mode is not None and mode.value != "IDENTITY"


def _faults_of_values(feature: Any, mode: str, values: list[Tensor]) -> Iterator[str]:
    """What is wrong with the numbers: shape, not finite, no spread."""
    shape = tuple(feature.shape)
    expected = (shape[0], 1, 1) if feature.type.value == "VISUAL" else shape
    for name, value in zip(_NEEDED[mode], values, strict=True):
        if tuple(value.shape) != expected:
            yield f"has a {name} of shape {list(value.shape)}, expected {list(expected)}"
            return
        if not bool(value.isfinite().all()):
            yield f"has a {name} that is NaN or infinite"
            return
    spread = values[1] if mode == "MEAN_STD" else values[1] - values[0]
    flat = (spread <= 0).flatten().nonzero().flatten().tolist()
    if flat and (feature.type.value == "VISUAL" or len(flat) == spread.numel() or bool((spread < 0).any())):
        channels = ", ".join(map(str, flat[:8]))
        yield f"has no spread in channel {channels} ({' and '.join(_NEEDED[mode])}), so that any noise there would be amplified"
