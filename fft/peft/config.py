"""adapter_config.json, strict: what is not known is refused by name, never ignored.

A field that would change what is computed, and is not computed here, may only stand at its neutral value.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from fft.methods import Method

Empty = Annotated[dict, Field(max_length=0)] | Annotated[list, Field(max_length=0)] | Literal[""] | None
"""the neutral value of a field that holds a pattern, a table or a list"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields that every peft_type has."""

    peft_type: str
    task_type: Literal["SEQ_CLS", "FEATURE_EXTRACTION"] | None = None
    modules_to_save: list[str] | None = None
    base_model_name_or_path: str | None = None
    auto_mapping: Any = None
    inference_mode: bool = False
    peft_version: str | None = None
    revision: str | None = None
    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    @property
    def saved(self) -> tuple[str, ...]:
        """The modules saved whole; PEFT adds the classifier's names for sequence classification."""
        return (*(self.modules_to_save or ()), *(("classifier", "score") if self.task_type == "SEQ_CLS" else ()))


@dataclass(frozen=True, kw_only=True)
class Targeted(Config):
    """The fields of an adapter that sits on modules of the base."""

    target_modules: str | list[str]
    exclude_modules: str | list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Linear(Targeted):
    """The fields of an adapter that sits on linear layers."""

    layers_to_transform: int | list[int] | None = None
    fan_in_fan_out: Literal[False] = False


class Format(NamedTuple):
    """How one peft_type is written and read.

    methods: the methods that are stored so; config: the dataclass of its fields; prefix: of the keys of whole modules;
    describe(method, layout, paths) -> the fields that say what the method with leaves at `paths` is;
    method(config) -> the Method of a config, as JSON data; tensors(config, layout) -> the adapter's own Tensors;
    families: those on which PEFT computes it.
    """

    methods: tuple[type[Method], ...]
    config: type[Config]
    prefix: str
    describe: Callable[[Method, Any, Iterable[str]], dict]
    method: Callable[[Any], dict]
    tensors: Callable[[Any, Any], list]
    families: tuple[str, ...] = ("bert", "roberta", "distilbert")
