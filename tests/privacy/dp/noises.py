"""Statistics of Gaussian noise at a false-positive rate of 1e-6 each."""

import math

import numpy as np
from scipy import stats

RATE = 1e-6


def width_p(noise, std):
    """Of the sum of squares, two-sided: chi-square with n degrees of freedom."""
    square = float(np.sum((np.asarray(noise, np.float64) / std) ** 2))
    return 2 * min(stats.chi2.cdf(square, len(noise)), stats.chi2.sf(square, len(noise)))


def shape_p(noise, std, cells=30):
    """Of the chi-square test against the normal distribution, in cells of equal probability."""
    places = (stats.norm.cdf(np.asarray(noise, np.float64) / std) * cells).astype(int)
    return stats.chisquare(np.bincount(np.minimum(places, cells - 1), minlength=cells)).pvalue


def fits(noise, std):
    """Whether both tests pass."""
    return width_p(noise, std) > RATE and shape_p(noise, std) > RATE


def related(one, other):
    """Whether the correlation is beyond 4.9 errors, which it is by chance once in 10^6."""
    return abs(np.corrcoef(one, other)[0, 1]) > 4.9 / math.sqrt(len(one))
