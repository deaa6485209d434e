"""The methods by name. A new method is one file here and one line in METHODS."""

from typing import Any

from fft.core.errors import InputError
from fft.core.settings import recorded, validated
from fft.methods.agem import AGEM
from fft.methods.base import Method
from fft.methods.bitfit import BitFit
from fft.methods.chain import Chain, chain
from fft.methods.context import Context
from fft.methods.distill import Distill
from fft.methods.dora import DoRA
from fft.methods.ewc import EWC
from fft.methods.freeze import Freeze
from fft.methods.full import Full
from fft.methods.gpm import GPM
from fft.methods.ia3 import IA3
from fft.methods.kl import KL
from fft.methods.l2sp import L2SP
from fft.methods.layerwise import Layerwise
from fft.methods.lora import LoRA
from fft.methods.lpft import LPFT
from fft.methods.lwf import LwF
from fft.methods.mas import MAS
from fft.methods.mixout import Mixout
from fft.methods.norm import NormTuning
from fft.methods.ogd import OGD
from fft.methods.parts import Parts, StepContext
from fft.methods.prefix import PrefixTuning
from fft.methods.prompt import PromptTuning
from fft.methods.pseudo import Pseudo
from fft.methods.recadam import RecAdam
from fft.methods.replay import Replay
from fft.methods.rslora import RsLoRA
from fft.methods.sam import SAM
from fft.methods.si import SI
from fft.methods.sparse import Sparse
from fft.methods.trees import Tree
from fft.methods.unfreeze import Unfreeze
from fft.methods.wise import Wise

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "freeze": Freeze,
    "layerwise": Layerwise,
    "sparse": Sparse,
    "unfreeze": Unfreeze,
    "lpft": LPFT,
    "l2sp": L2SP,
    "ewc": EWC,
    "mas": MAS,
    "si": SI,
    "recadam": RecAdam,
    "mixout": Mixout,
    "ogd": OGD,
    "gpm": GPM,
    "lora": LoRA,
    "replay": Replay,
    "agem": AGEM,
    "kl": KL,
    "lwf": LwF,
    "distill": Distill,
    "pseudo": Pseudo,
    "wise": Wise,
    "sam": SAM,
    "rslora": RsLoRA,
    "dora": DoRA,
    "ia3": IA3,
    "bitfit": BitFit,
    "norm": NormTuning,
    "prompt": PromptTuning,
    "prefix": PrefixTuning,
}

__all__ = [
    "AGEM",
    "EWC",
    "GPM",
    "IA3",
    "KL",
    "L2SP",
    "LPFT",
    "MAS",
    "METHODS",
    "OGD",
    "SAM",
    "SI",
    "BitFit",
    "Chain",
    "Context",
    "Distill",
    "DoRA",
    "Freeze",
    "Full",
    "Layerwise",
    "LoRA",
    "LwF",
    "Method",
    "Mixout",
    "NormTuning",
    "Parts",
    "PrefixTuning",
    "PromptTuning",
    "Pseudo",
    "RecAdam",
    "Replay",
    "RsLoRA",
    "Sparse",
    "StepContext",
    "Tree",
    "Unfreeze",
    "Wise",
    "chain",
    "parse_chain",
]


def parse_chain(names: str, settings: dict[str, Method] | None = None) -> Method:
    """Return the method that a chain such as `lora+ewc` names, each member with its settings or its defaults.

    Raises: InputError for an unknown name, and for settings other than the defaults of a method not named.
    """
    settings = settings or {}
    members = [name.strip() for name in names.split("+")]
    for name in members:
        _class_of(name, "--method")
    for name, method in settings.items():
        if name not in members and method != METHODS[name]():
            raise InputError(
                f"a setting of {name} is given, but --method {names} does not name {name}: add it or drop the setting"
            )
    return chain(*(settings.get(name, METHODS[name]()) for name in members))


def to_json(method: Method) -> list[dict[str, Any]]:
    """Convert a method to JSON data: one object per member, with its name and settings."""
    return [{"name": m.name} | recorded(m) for m in method.members]


def from_json(data: Any, where: str = "method") -> Method:
    """Return the method that such JSON data describe.

    Raises: InputError with the path in the data, for an unknown name or setting or other data.
    """
    if not isinstance(data, list) or not data or not all(isinstance(item, dict) for item in data):
        raise InputError(f"{where}: expected a list of objects, each with a name, got {data!r}")
    members = []
    for i, item in enumerate(data):
        kind = _class_of(item.get("name"), f"{where}.{i}.name")
        members.append(validated(kind, {k: v for k, v in item.items() if k != "name"}, f"{where}.{i}"))
    return chain(*members)


def _class_of(name: Any, where: str) -> type[Method]:
    if name not in METHODS:
        raise InputError(f"{where}: unknown method {name!r}; known are {', '.join(METHODS)}")
    return METHODS[name]
