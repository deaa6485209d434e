"""The base checkpoint of an experiment, with the heads that its tasks use."""

from fft import models
from fft.data.prompts import read_template
from fft.data.settings import predicts_masked, predicts_tokens
from fft.experiment import Experiment
from fft.models import Checkpoint


def load_base(experiment: Experiment) -> Checkpoint:
    """Load the base of an experiment, with its language head if a task predicts tokens.

    Raises: as `fft.models.load`, `fft.models.load_causal` or `fft.models.load_language`.
    """
    tasks = [experiment.new, *experiment.original]
    if predicts_tokens(tasks):
        if predicts_masked(tasks):
            return models.load_language(experiment.model, pooled=not all(predicts_tokens([task]) for task in tasks))
        template = read_template(experiment.new.chat_template)
        return models.load_causal(experiment.model)._replace(template=template)
    return models.load(experiment.model)
