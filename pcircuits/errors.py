"""One error hierarchy: each class is also the builtin that a Python user would catch."""


class PCircuitsError(Exception):
    """Base of every error this library raises on purpose."""


class ShapeError(PCircuitsError, ValueError):
    """A tensor's shape, dtype or device is not what the argument needs."""


class StructureError(PCircuitsError, ValueError):
    """A region graph is invalid, or lacks the property that a query needs."""


class EvidenceError(PCircuitsError, ValueError):
    """Evidence is malformed, out of range or impossible."""


class ParameterError(PCircuitsError, ValueError):
    """A parameter is malformed: negative or all-zero weights, NaN, wrong shape or range."""


class DataError(PCircuitsError, ValueError):
    """Training data or its weights are malformed or empty."""


class FormatError(PCircuitsError, ValueError):
    """A file is truncated, tampered with, of a newer version or of another kind."""


class StaleError(PCircuitsError, RuntimeError):
    """A posterior is used after its circuit's parameters changed."""
