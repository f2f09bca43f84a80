"""Sums of maxima."""

from pcircuits.semirings.log import Log


class Bound(Log):
    """Unobserved values maximised out, sums summed: an upper bound of the maximum over those values, since the maximum
    of a sum is at most the sum of its terms' maxima.
    """

    _maximise = True
