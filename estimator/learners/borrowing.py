"""A learner for a GPU of few measurements, which starts from what other GPUs' models know."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.linear_model import RidgeCV

from servecast.estimator.learners.flatten import mean_of, sum_of
from servecast.estimator.learners.forest import FlatForest, KernelModel
from servecast.estimator.learners.growers import Growth, flat, grown
from servecast.estimator.learners.regressors import KernelLearner, over_roofline

PENALTIES = (0.01, 0.1, 1.0, 10.0)  # of donors' weights; the leave-one-out error picks
OWN = ("randomised", "shallow")  # learn what no donor knew, from few rows


class BorrowedTrees(KernelLearner):
    """For a GPU of few measurements: what trees learnt of other GPUs, each over its own roofline, weighted to
    fit, and trees on what is left. A tile's waste is a tile's waste on every GPU; their rooflines differ.

    Parameters
    ----------
    donors : tuple of FlatForest
        Of other GPUs' models, on the same features.
    side, effort, random_state
        As of RooflineTrees.

    Attributes
    ----------
    model_ : KernelModel
        The fit as arrays.
    """

    def __init__(
        self,
        donors: tuple[FlatForest, ...] = (),
        side: tuple[int, ...] = (),
        effort: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.donors = donors
        self.side = side
        self.effort = effort
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Times ``y`` [cases] in seconds, positive.

        Raises
        ------
        ValueError
            A time is not positive.
        """
        features, roofline, residual = over_roofline(self, X, y, self.side)
        weights: list[float] = []
        if self.donors:
            known = np.stack([donor.predict(features) for donor in self.donors], axis=1)
            ridge = RidgeCV(PENALTIES).fit(known, residual)
            weights = [float(weight) for weight in ridge.coef_]
            residual = residual - known @ ridge.coef_
        growth = Growth(self.random_state, self.effort)
        own = [flat(grown(name, features, residual, growth)) for name in OWN]
        forest = sum_of([*self.donors, mean_of(own)], [*weights, 1.0])
        self.model_ = KernelModel(roofline, forest, "borrowed")
        return self
