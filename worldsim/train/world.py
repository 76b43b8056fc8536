"""`worldsim train world`: a dataset in, a world folder out, in stages that each survive a kill.

Stages: tokenizer (closed form, then its learned pixels), latent cache, predictor, heads, held-out figures, folder.
The running state lives beside the result in `<out>.training`; the same command continues from it.
Not for policies (`worldsim.train.policy`).

Shape legend: E episodes, T frames, N frames of a sample, c h w latent, P proprio, A action.
"""

import dataclasses
import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from worldsim import storage
from worldsim.data.cache import LatentCache, cache_latents
from worldsim.data.clips import Clips
from worldsim.data.dataset import Dataset, open_dataset
from worldsim.data.starts import Starts
from worldsim.errors import InvalidInputError, StorageError
from worldsim.predict.base import Predictor
from worldsim.predict.registry import PREDICTORS
from worldsim.tokenizers.base import Tokenizer
from worldsim.tokenizers.layers import LayersTokenizer
from worldsim.tokenizers.registry import TOKENIZERS
from worldsim.train.figures import held_out_figures
from worldsim.train.loop import Schedule, Watch, fit
from worldsim.types import WorldSpec
from worldsim.worlds.heads import Heads, HeadsConfig
from worldsim.worlds.latent import LatentWorld
