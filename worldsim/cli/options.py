"""Options that several commands share, and the ranges of their numbers."""

from typing import Annotated

import typer

MAX_SEED = 2**63 - 1
MAX_BUDGET = 10**7
"""Rollouts or episodes: beyond it an episode table fills the memory before the first is played."""
MAX_COUNT = 10**6
"""Samples, tokens, frames and the like."""

MAX_EPISODES = 10**7
MAX_IMAGE_PX = 8192

Device = Annotated[str, typer.Option(help="Where tensors are computed: cpu, cuda or cuda:N.")]
Dtype = Annotated[
    str, typer.Option(help="Of the weights: float32, bfloat16 or float16. [default: as stored]", show_default=False)
]
