"""Strict reading of adapter_config.json: an unknown field is refused by name, unless it is null, false or empty.

A field that would change the computation, and is not supported here, may only have its neutral value.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from fft.core.errors import InputError
from fft.core.settings import says_nothing, validated

MERGE = "merge the adapter with PEFT, model.merge_and_unload().save_pretrained(DIR), and give DIR as the model"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields that every peft_type has."""

    peft_type: str
    task_type: str | None = None
    modules_to_save: list[str] | None = None
    base_model_name_or_path: str | None = None
    auto_mapping: Any = None
    inference_mode: bool = False
    peft_version: str | None = None
    revision: str | None = None
    unset: ClassVar[tuple[str, ...]] = ()
    """further fields, which are not supported: each must be null, false or empty"""
    allowed: ClassVar[Mapping[str, tuple[tuple, str]]] = {
        "task_type": (
            ("SEQ_CLS", "CAUSAL_LM", "FEATURE_EXTRACTION", None),
            "only SEQ_CLS, CAUSAL_LM and FEATURE_EXTRACTION are read",
        ),
    }
    """{field, one of the above or a further one: (accepted values, why no others)}"""
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    @property
    def saved(self) -> tuple[str, ...]:
        """The modules whose weights are saved in full; for sequence classification PEFT adds the classifier's names."""
        return (*(self.modules_to_save or ()), *(("classifier", "score") if self.task_type == "SEQ_CLS" else ()))


Known = TypeVar("Known", bound=Config)


@dataclass(frozen=True, kw_only=True)
class Targeted(Config):
    """The fields of an adapter that changes modules of the base."""

    target_modules: str | list[str]
    exclude_modules: str | list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Linear(Targeted):
    """The fields of an adapter that changes linear layers."""

    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    fan_in_fan_out: bool = False
    """how the base's weights are stored; PEFT corrects a wrong value, and the adapter's own tensors are the same"""


def read_config(kind: type[Known], raw: dict[str, Any], where: str) -> tuple[Known, tuple[str, ...]]:
    """Return the config of a peft_type from the dict of an adapter_config.json, and notes.

    Unknown fields that are null, false or empty are left out, and a note names them.

    Raises: InputError that names every field that is unknown, not supported, or of a wrong type.
    """
    known = {field.name for field in fields(kind)}
    unknown = sorted(raw.keys() - known - {*kind.unset, *kind.allowed})
    idle = [name for name in unknown if says_nothing(raw[name])]
    wrong = [f"{name} is {json.dumps(raw[name])}: not known" for name in unknown if name not in idle]
    set_here = [name for name in kind.unset if not says_nothing(raw.get(name))]
    wrong += [f"{name} is set; fft does not support it" for name in set_here]
    wrong += [
        f"{name} is {json.dumps(raw[name])}: {why}"
        for name, (values, why) in kind.allowed.items()
        if name in raw and raw[name] not in values
    ]
    if wrong:
        raise InputError(f"{where}: {'; '.join(wrong)}. To use it all the same, {MERGE}")
    config = validated(kind, {name: raw[name] for name in raw if name in known}, where)
    note = f"{where}: the unknown field(s) {', '.join(idle)} are null, false or empty and are left out"
    return config, (note,) * bool(idle)
