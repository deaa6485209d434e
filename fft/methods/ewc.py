"""Elastic weight consolidation: parameters that the original task depends on are held where they were."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp

from fft.errors import InputError
from fft.fisher import FisherPass
from fft.information import load_fisher, tasks_of
from fft.methods.base import Context, Given, Method, leaf_sum
from fft.paths import Params, flatten
from fft.schema import TELLS_DEFAULT, between
from fft.storage import Storage, pack, unpack

LARGEST = 3e38  # a float32


@dataclass(frozen=True)
class EWC(FisherPass, Method):
    """Add  ½ λ Σ F ⊙ (θ − θ*)²  with the diagonal Fisher information F of the original task at the base θ*.

    The sum runs over the MERGED parameters, so with LoRA it is ½ λ Σ F ⊙ (s·A·B)² and the frozen base is the anchor.
    A fresh head has no original-task loss and takes no part. The Laplace argument with mean losses puts λ near
    N_original / N_new, the unit `ratio`; the useful λ is larger, so search it on a logarithmic grid.

    Reference: Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3.
    """

    name: ClassVar[str] = "ewc"
    prefix: ClassVar[str] = "ewc."
    strength: float = 1000.0
    """λ"""
    unit: Literal["plain", "ratio"] = "plain"
    """λ is the strength itself, or the strength times (original training rows / new training rows)"""
    fisher: Annotated[str | None, TELLS_DEFAULT] = None
    """what `fft fisher` wrote, in place of a pass of the run's own; then no original data are needed"""
    storage: Storage = "float32"
    """how the pass of the run's own is kept: float32, bfloat16, or int8 in blocks"""

    def __post_init__(self):
        super().__post_init__()
        between("ewc.strength", self.strength, 0.0, LARGEST)
        own = [*dataclasses.fields(FisherPass), *(f for f in dataclasses.fields(self) if f.name == "storage")]
        unused = [f.name for f in own if self.fisher is not None and getattr(self, f.name) != f.default]
        if unused:
            raise InputError(f"ewc.{unused[0]} is of the run's own Fisher pass, which --fisher replaces: leave one out")

    @property
    def needs_original(self) -> bool:
        """Whether the original task's data are needed before step 1."""
        return self.fisher is None

    def check(self, given: Given) -> tuple[str, ...]:
        """Whether the artefact named is one of this base, of a head as it stands there, and of the original task."""
        if self.fisher is None:
            return ()
        _, told = load_fisher(self.fisher, given.base, given.base_sha256)
        if given.fitted:
            raise InputError(
                f"--original-head fit trains a head that the Fisher information in {self.fisher} knows nothing of: "
                "leave --fisher out, and the run measures its own"
            )
        original = given.original
        if original is None:
            return ()
        if original.task.name not in told["tasks"]:
            raise InputError(
                f"the Fisher information in {self.fisher} is of the task {', '.join(told['tasks'])}, the original task "
                f"of this run is {original.task.name}"
            )
        same = told["task"]["name"] != original.task.name or told["data"]["train"] == original.identity["train"]
        return () if same else (f"warning: {self.fisher} read other rows than this run's original training rows",)

    def prepare(self, context: Context, key: jax.Array) -> Params:
        """{"fisher": the diagonal over every parameter but fresh heads, as stored, "unit": what λ is multiplied by}.

        Errors: InputError without original data and without a Fisher, for a Fisher of another base, and where the
        unit is a ratio and a number of rows is not known.
        """
        if self.fisher is None:
            stored, original_rows = self._measured(context, key), context.rows.get("original")
        else:
            stored, told = load_fisher(self.fisher, context.base, context.base_sha256)
            original_rows = told["data"]["train_rows"]
            _note(
                context,
                told["estimator"],
                told["examples"],
                told["trace"],
                f", of {tasks_of(told)}, from {self.fisher}",
            )
        unit = 1.0 if self.unit == "plain" else _ratio(original_rows, context.rows.get("new"))
        if self.unit == "ratio":
            context.note(f"EWC: λ = {self.strength:g} · N_original / N_new = {self.strength * unit:.6g}")
        return {"fisher": stored, "unit": jnp.float32(unit)}

    def _measured(self, context, key):
        if context.batches is None:
            raise InputError("EWC measures the original task: give --original, or --fisher")
        fisher, task = self.measure(context, key)
        sigma = f", residual sd {task.sigma:.4g}" if task.kind == "regression" else ""
        _note(context, fisher.estimator, fisher.examples, fisher.trace, sigma)
        return pack(fisher.diagonal, self.storage)

    def penalty(self, base: Params, params: Params, aux: Params) -> jax.Array:
        anchors, values = flatten(base), flatten(params)

        def of_leaf(path, fisher):
            if not fisher.shape == values[path].shape == anchors[path].shape:
                raise InputError(f"the Fisher of {path} is {fisher.shape}, the parameter {values[path].shape}")
            return jnp.sum(fisher * jnp.square(values[path] - anchors[path]))

        total = leaf_sum(of_leaf(path, fisher) for path, fisher in flatten(unpack(aux["fisher"])).items())
        return 0.5 * self.strength * aux["unit"] * total


def _note(context, estimator, examples, trace, more):
    context.note(f"Fisher ({estimator}) over {examples} original rows: trace {trace:.4g}{more}")


def _ratio(original_rows: int | None, new_rows: int | None) -> float:
    if not original_rows or not new_rows:
        raise InputError("--ewc.unit ratio needs the rows of both tasks, original and new")
    return original_rows / new_rows
