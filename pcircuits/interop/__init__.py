"""Circuits of other libraries: files read as data, never executed."""

from pcircuits.interop.jpc import read_jpc

__all__ = ["read_jpc"]
