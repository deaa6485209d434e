"""Full fine-tuning: train every parameter. The baseline that forgets."""

from dataclasses import dataclass
from typing import ClassVar

from fft.methods.base import Method
from fft.methods.parts import Parts
from fft.methods.trees import BASE_TREE


@dataclass(frozen=True)
class Full(Method):
    """Train all parameters with one learning rate."""

    name: ClassVar[str] = "full"

    def parts(self) -> Parts:
        return Parts(tree=BASE_TREE)
