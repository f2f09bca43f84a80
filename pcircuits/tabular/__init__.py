"""Circuits for tables, with the interface of scikit-learn."""

try:
    from pcircuits.tabular.density import CircuitDensity
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("pcircuits.tabular needs scikit-learn: pip install 'pcircuits[tabular]'") from error

__all__ = ["CircuitDensity"]
