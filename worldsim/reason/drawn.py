"""Keyed sampling of tokens: what an item draws depends on its key and the step, not on its batch. Not for greedy replies."""

from torch import Tensor

from worldsim.noise import uniform


class Drawn:
    """Draws tokens by adding Gumbel noise to the logits, so that the likeliest is a fair draw.

    Args:
        keys: int64 [B].
        start: Tokens of the prompt.
        temperature: Above 0.
    """

    def __init__(self, keys: Tensor, start: int, temperature: float) -> None:
        self._keys, self._start, self._temperature = keys, start, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy logits, float32 [B, V]."""
        step, shape = input_ids.shape[1] - self._start, (scores.shape[1],)
        even = uniform(self._keys, step, shape).to(scores.device).clamp(1e-12, 1 - 1e-7)
        return scores / self._temperature - (-even.log()).log()
