"""Settings of text generation, the same for Python and the command line."""

from dataclasses import dataclass

from fft.core.bounds import Count, NonNegative, PositiveShare, Seed, check_bounds
from fft.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How texts are generated."""

    max_new: Count = 128
    """maximum number of new tokens of a text"""
    temperature: NonNegative = 0.0
    """logits are divided by this before a token is sampled; 0 takes the most probable token"""
    top_p: PositiveShare = 1.0
    """sample only from the most probable tokens whose probabilities sum to this"""
    n: Count = 1
    """number of samples per prompt"""
    seed: Seed = 0
    """seeds the sampling"""
    batch_size: Count = 8
    """maximum number of texts generated at once"""

    def __post_init__(self) -> None:
        check_bounds(self)
        for name, value, unused in (("top-p", self.top_p, 1.0), ("n", self.n, 1)):
            if self.temperature == 0 and value != unused:
                raise InputError(
                    f"--{name} {value:g} has no effect at temperature 0, where every text is the most probable one: "
                    "give --temperature, such as 1"
                )
