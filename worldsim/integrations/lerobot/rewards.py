"""LeRobot's reward classifier as what a frame is worth: read strictly and offline, its weights looked at first.

Its own loader takes the encoder from the hub and runs code that it finds there; here the encoder is built from a config that
the hub's cache holds, and encoders that need code of their own are refused. Reward models of other types look at full
episodes: LeRobot writes what they say to a file, which `worldsim.label.sources.rewards_of_file` reads.

Shape legend: F frames, C colours, H W pixels.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import Tensor

from worldsim.arrays import Bytes, Float64s
from worldsim.errors import InvalidInputError, StorageError
from worldsim.integrations.lerobot.checkpoint import check_weights, lerobot, local_model, offline
from worldsim.json_values import shown
from worldsim.policies.discovery import PICKLES
from worldsim.storage import CONFIG, WEIGHTS, check_sizes, read_json

PROCESSOR = "classifier_preprocessor.json"
_TYPE = "reward_classifier"
_TOGETHER = 64
RewardModel = Callable[[Mapping[str, Bytes]], Float64s]
"""Frames by feature, uint8 [F, H, W, 3] each -> probability that each shows success, [F]."""


def read_reward_model(path: Path, *, device: torch.device | str = "cpu") -> RewardModel:
    """Load a reward classifier's folder (``.../pretrained_model``).

    Args:
        path: The folder.
        device: Where it computes.

    Raises:
        StorageError: A file is missing, unreadable or may run code, the model is of another type, its encoder is not at hand,
            or weights or statistics do not fit.
        MissingExtraError: LeRobot or transformers is not installed.
    """
    _check_folder(path)
    rewards = lerobot("configs.rewards")
    lerobot("rewards.factory")  # registers the types
    with offline():
        try:
            config = rewards.RewardModelConfig.from_pretrained(str(path))
        except Exception as error:
            raise StorageError(f"{path / CONFIG} is no configuration that LeRobot reads: {error}") from error
        config.device = str(device)
        encoder = local_model(config.model_name, source=path / CONFIG)
        network = _network(path, config, encoder)
    cameras = [key for key in config.input_features if key.startswith("observation.image")]
    scales = _statistics(path, config, cameras)
    sizes = {key: tuple(config.input_features[key].shape[1:]) for key in cameras}

    @torch.no_grad()
    def reward(frames: Mapping[str, Bytes]) -> Float64s:
        if missing := sorted(set(cameras) - frames.keys()):
            raise InvalidInputError(
                f"The reward classifier {path} looks at {', '.join(cameras)}, and this recording has {', '.join(frames)}: "
                f"{', '.join(missing)} missing."
            )
        inputs = [_prepare(frames[key], sizes[key], scales[key]) for key in cameras]
        parts = zip(*(x_FCHW.split(_TOGETHER) for x_FCHW in inputs), strict=True)
        found = [network.predict([x.to(device) for x in part]).probabilities.cpu() for part in parts]
        return np.asarray(torch.cat(found).double().numpy())

    return reward


def _check_folder(path: Path) -> None:
    """Refuse what is no reward classifier, before LeRobot looks at it."""
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if missing:
        raise StorageError(f"{path} is no reward model of LeRobot: {', '.join(missing)} missing. Check the path.")
    if pickled := sorted(file.name for file in path.iterdir() if file.suffix in PICKLES):
        raise StorageError(f"{path} holds the pickle {pickled[0]}, which runs code when it is read. Take it out.")
    config = read_json(path / CONFIG)
    kind = config.get("type") if isinstance(config, dict) else None
    if kind != _TYPE:
        raise StorageError(
            f"{path} holds {shown(kind)}; of LeRobot's reward models the {_TYPE!r} is read from its folder. Others watch full "
            f"episodes: let LeRobot write what they say (python -m lerobot.rewards.{kind if str(kind).isidentifier() else 'sarm'}"
            ".compute_rabc_weights) and give that file: --rewards FILE.parquet."
        )
    if config.get("num_classes", 2) != 2:
        raise StorageError(f"{path} tells {shown(config.get('num_classes'))} classes apart; success needs two.")
    check_sizes(config, source=path / CONFIG)


def _network(path: Path, config: Any, encoder: Path) -> Any:
    """Build the classifier around an encoder, and fill in every weight."""
    transformers = _transformers()
    classifier = lerobot("rewards.classifier.modeling_classifier").Classifier
    base: Any = lerobot("rewards.pretrained").PreTrainedRewardModel
    shape = transformers.AutoConfig.from_pretrained(str(encoder), trust_remote_code=False, local_files_only=True)

    class Offline(classifier):  # type: ignore[misc, valid-type]
        def __init__(self, config: Any) -> None:
            base.__init__(self, config)
            built = transformers.AutoModel.from_config(shape, trust_remote_code=False)
            vision = getattr(built, "vision_model", None)
            self.encoder = built if vision is None else vision
            self.vision_config = built.config if vision is None else built.config.vision_config
            self.is_cnn = config.model_type == "cnn"
            if self.is_cnn:
                self._setup_cnn_backbone()
            self.image_keys = [k.replace(".", "_") for k in config.input_features if k.startswith("observation.image")]
            if self.is_cnn:
                self.encoders = torch.nn.ModuleDict({key: self._create_single_encoder() for key in self.image_keys})
            self._build_classifier_head()

    weights = path / WEIGHTS
    try:
        check_weights(Offline, config, weights)
        network = Offline(config)
        load_model(
            network, str(weights), strict=False
        )  # names were compared; a shared encoder counts its batches twice
    except StorageError:
        raise
    except (RuntimeError, SafetensorError, OSError, ValueError, AttributeError, TypeError) as error:
        raise StorageError(f"The reward classifier in {path} could not be built: {error}") from error
    return network.to(config.device).eval()


def _transformers() -> Any:
    import transformers

    return transformers


def _statistics(path: Path, config: Any, cameras: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of each camera's colours, [C, 1, 1] each; 0 and 1 where the config does not normalise."""
    mode = config.normalization_mapping.get("VISUAL")
    name = "IDENTITY" if mode is None else mode.value
    if name == "IDENTITY":
        return {key: (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)) for key in cameras}
    content = read_json(path / PROCESSOR) if (path / PROCESSOR).is_file() else {}
    steps = content.get("steps", []) if isinstance(content, dict) else []
    stored: dict[str, Tensor] = {}
    for step in steps if isinstance(steps, list) else []:
        file = step.get("state_file") if isinstance(step, dict) else None
        if isinstance(file, str) and Path(file).name == file and (path / file).is_file():
            stored |= load_file(str(path / file))
    found = {key: (stored.get(f"{key}.mean"), stored.get(f"{key}.std")) for key in cameras}
    wrong = [
        key for key, pair in found.items() if any(x is None or x.numel() != 3 or not x.isfinite().all() for x in pair)
    ]
    if wrong or name != "MEAN_STD":
        raise StorageError(
            f"{path} would look at frames without their normalisation ({name}): {PROCESSOR} lacks mean and std of "
            f"{', '.join(wrong) or 'this kind'}. Save the processors with the statistics of the training data."
        )
    return {key: (mean.float().view(3, 1, 1), std.float().view(3, 1, 1)) for key, (mean, std) in found.items()}  # type: ignore[union-attr]


def _prepare(frames_FHWC: Bytes, size: tuple[int, ...], scale: tuple[Tensor, Tensor]) -> Tensor:
    """Frames as the network reads them, float32 [F, C, H, W]."""
    x_FCHW = torch.from_numpy(np.ascontiguousarray(frames_FHWC)).permute(0, 3, 1, 2).float() / 255
    if tuple(x_FCHW.shape[2:]) != size:
        x_FCHW = F.interpolate(x_FCHW, size, mode="bilinear", antialias=True)
    return (x_FCHW - scale[0]) / scale[1].clamp_min(1e-8)
