# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Online elastic weight consolidation (Schwarz et al. 2018, Progress & Compress, section 3).

After Kirkpatrick et al. 2017, a task just learned leaves a Gaussian posterior around its parameters,
whose precision is the diagonal of the Fisher information. The online form keeps one such term for all
tasks: the precisions are summed with decay, the mean is that of the latest consolidation.
"""
from __future__ import annotations

from typing import Any

from muster.learning.networks import check_vector, MLP
import numpy as np
from numpy.typing import NDArray


class ElasticWeights:
    """A penalty on leaving parameters that earlier tasks need: strength/2 * sum F * (theta - anchor)^2."""

    def __init__(self, size: int) -> None:
        """Begin without any penalty for `size` parameters."""
        self.importance: NDArray[np.float32] = np.zeros(size, np.float32)
        """float32[size] >= 0: the decayed sum of the Fisher diagonals."""
        self.anchor: NDArray[np.float32] = np.zeros(size, np.float32)
        """float32[size]: the parameters at the latest consolidation."""
        self._pull: NDArray[np.float32] = np.empty(size, np.float32)

    def consolidate(self, theta: NDArray[np.float32], fisher: NDArray[np.float32], decay: float) -> None:
        """
        Hold on to the parameters as they are now.

        `fisher` float32[size] >= 0 is the mean over the task's samples of the squared derivatives of
        the log-likelihood; what was important before counts `decay` (0..1) times.
        """
        self.importance *= np.float32(decay)
        self.importance += fisher
        self.anchor[:] = theta

    def penalty(self, theta: NDArray[np.float32], strength: float) -> float:
        """Return the penalty that belongs to the loss."""
        np.subtract(theta, self.anchor, out=self._pull)
        return 0.5 * strength * float(np.dot(self.importance, np.square(self._pull)))

    def add_gradient(self, theta: NDArray[np.float32], strength: float,
                     gradient: NDArray[np.float32]) -> None:
        """Add the gradient of the penalty to `gradient` float32[size]."""
        np.subtract(theta, self.anchor, out=self._pull)
        self._pull *= self.importance
        self._pull *= np.float32(strength)
        gradient += self._pull

    def export(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all of it."""
        return {'importance': self.importance.copy(), 'anchor': self.anchor.copy()}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        try:
            importance, anchor = arrays['importance'], arrays['anchor']
        except KeyError as error:
            raise ValueError(f'the elastic weights lack {error}') from error
        for array in (importance, anchor):
            check_vector(array, self.anchor, 'the elastic weights')
        if (importance < 0).any():
            raise ValueError('the importance of a parameter is negative')
        self.importance[:], self.anchor[:] = importance, anchor


def fisher_diagonal(network: MLP, inputs: NDArray[np.float32],
                    derivatives: NDArray[np.float32]) -> NDArray[np.float32]:
    """
    Return the mean of the squared gradients of single samples, float32[parameters].

    `derivatives` float32[n, outputs], n >= 1, are those of the log-likelihood of an answer drawn from the
    network's own distribution, with respect to the outputs for `inputs` float32[n, inputs]. That
    makes it the Fisher information; the answers of a data set would not (Kunstner et al. 2019).
    """
    network.forward(inputs)
    squares = network.squared_gradients(derivatives)
    squares /= len(inputs)
    return squares
