"""Full fine-tuning: every parameter is trained. The baseline that forgets."""

from dataclasses import dataclass
from typing import ClassVar

from fft.methods.base import Method


@dataclass(frozen=True)
class Full(Method):
    """Train all parameters with one learning rate."""

    name: ClassVar[str] = "full"
    whole: ClassVar[bool] = True
