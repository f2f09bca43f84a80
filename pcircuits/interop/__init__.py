"""Circuits of other libraries and of logic: files read as data, never executed."""

from pcircuits.interop.cnf import compile_cnf
from pcircuits.interop.jpc import read_jpc
from pcircuits.interop.juice import read_jlc, read_spn
from pcircuits.interop.nnf import read_nnf, write_nnf
from pcircuits.interop.psdd import write_psdd
from pcircuits.interop.sdd import read_psdd, read_sdd

__all__ = [
    "compile_cnf",
    "read_jlc",
    "read_jpc",
    "read_nnf",
    "read_psdd",
    "read_sdd",
    "read_spn",
    "write_nnf",
    "write_psdd",
]
