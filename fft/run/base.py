"""The base checkpoint of an experiment, with the heads that its tasks use."""

from collections.abc import Sequence

from fft import models
from fft.data.prompts import read_template
from fft.data.settings import Data, predicts_masked, predicts_tokens
from fft.experiment import Experiment
from fft.models import Checkpoint


def load_for(model: str, tasks: Sequence[Data]) -> Checkpoint:
    """Load a checkpoint, with its language head if one of the tasks predicts tokens.

    Raises: as `fft.models.load`, `fft.models.load_causal` or `fft.models.load_language`.
    """
    if predicts_masked(tasks):
        return models.load_language(model, pooled=not all(predicts_tokens([task]) for task in tasks))
    return models.load_causal(model) if predicts_tokens(tasks) else models.load(model)


def load_base(experiment: Experiment) -> Checkpoint:
    """Load the base of an experiment for its tasks, with the chat template that the new one names.

    Raises: as `load_for`.
    """
    base = load_for(experiment.model, [experiment.new, *experiment.original])
    return base._replace(template=read_template(experiment.new.chat_template))
