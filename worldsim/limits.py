"""Ranges of the numbers that requests, commands and files of other people may hold."""

MAX_SEED = 2**63 - 1
MAX_BUDGET = 10**7
"""Rollouts or episodes: beyond it an episode table fills the memory before the first is played."""
MAX_EPISODES = MAX_BUDGET
MAX_COUNT = 10**6
"""Samples, tokens, frames, rows of a batch and the like."""
MAX_WORKERS = 1024
MAX_TIMEOUT_S = 1e6
MAX_IMAGE_PX = 8192
