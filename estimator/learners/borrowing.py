"""A learner for a GPU of few measurements, which starts from what other GPUs' models know."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.linear_model import RidgeCV

from servecast.estimator.learners.flatten import mean_of, sum_of
from servecast.estimator.learners.forest import FlatForest, KernelModel
from servecast.estimator.learners.regressors import GROWERS, Growth, KernelLearner, positive
from servecast.estimator.learners.roofline_fit import fit_roofline
from servecast.estimator.measurement import Floats

PENALTIES = (0.01, 0.1, 1.0, 10.0)  # of donors' weights; the leave-one-out error picks
OWN = ("randomised", "shallow")  # learn what no donor knew, from few rows


class BorrowedTrees(KernelLearner):
    """For a GPU of few measurements: what trees learnt of other GPUs, each over its own roofline, weighted to
    fit, and trees on what is left. A tile's waste is a tile's waste on every GPU; their rooflines differ.

    Parameters
    ----------
    donors : tuple of FlatForest
        Of other GPUs' models, on the same features.
    share : float
        Of what was borrowed; the rest is trees on the GPU's own rows alone.
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
        share: float = 1.0,
        side: tuple[int, ...] = (),
        effort: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.donors = donors
        self.share = share
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
        features, seconds = positive(self, X, y)
        roofline = fit_roofline(features, seconds, self.side)
        residual = np.log(seconds / roofline.predict(features))
        weights, left = self._weighted(features, residual)
        parts = [*self.donors, self._own(features, left)]
        shares = [self.share * weight for weight in [*weights, 1.0]]
        if self.share < 1:
            parts.append(self._own(features, residual))
            shares.append(1 - self.share)
        self.model_ = KernelModel(roofline, sum_of(parts, shares), "borrowed")
        return self

    def _weighted(self, features: Floats, residual: Floats) -> tuple[list[float], Floats]:
        """The donors' weights, and what they leave [cases]."""
        if not self.donors:
            return [], residual
        known = np.stack([donor.predict(features) for donor in self.donors], axis=1)
        ridge = RidgeCV(PENALTIES).fit(known, residual)
        return [float(weight) for weight in ridge.coef_], residual - known @ ridge.coef_

    def _own(self, features: Floats, residual: Floats) -> FlatForest:
        growth = Growth(self.random_state, self.effort)
        return mean_of([GROWERS[name](features, residual, growth) for name in OWN])
