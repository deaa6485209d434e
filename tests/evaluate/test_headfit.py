"""The fitted head against scikit-learn's logistic regression on the same frozen features."""

from types import SimpleNamespace

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

from fft.evaluate.headfit import WEIGHT_DECAY, fit_head
from fft.tasks.classify import Classify
from tests.helpers.toy import Toy, max_difference, toy_batch, toy_params

TOY = Toy()


def checkpoint():
    def init_head(key, classes):
        return {"out": {"kernel": 0.02 * jax.random.normal(key, (4, classes)), "bias": np.zeros(classes)}}

    model = SimpleNamespace(states=TOY.states, readout=TOY.readout, init_head=init_head)
    return SimpleNamespace(model=model, params=toy_params(heads={}))


def test_the_head_reaches_the_optimum_of_logistic_regression():
    """The decision values agree within 0.02, and filler rows count for nothing."""
    base = checkpoint()
    before = jax.tree.map(np.asarray, base.params)
    batches = [toy_batch(seed, rows=64, filler=10) for seed in range(3)]
    for batch in batches:
        batch.targets[:] = batch.x[:, 0] + 0.5 * batch.x[:, 1] > 0
        batch.targets[batch.weight == 0] = 0
    task = Classify("original", ("no", "yes"))
    head, how = fit_head(base, task, batches, jax.random.key(0))
    assert how["rows"] == 3 * 54 and max_difference(base.params, before) == 0
    features = np.concatenate([np.asarray(TOY.apply(base.params, b)["pooled"])[b.weight > 0] for b in batches])
    labels = np.concatenate([b.targets[b.weight > 0] for b in batches])
    # Two softmax columns share the penalty of one weight vector, which halves it: ½ d Σ W² = ¼ d |w|².
    best = LogisticRegression(C=2 / (WEIGHT_DECAY * len(labels)), max_iter=5000, tol=1e-8).fit(features, labels)
    logits = features @ np.asarray(head["out"]["kernel"]) + np.asarray(head["out"]["bias"])
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], best.decision_function(features), atol=2e-2)
    assert how["loss_last"] < how["loss_first"]
