"""Circuits on disk: JSON that describes the circuit, safetensors that hold its parameters, no pickle."""

from pcircuits.io.folder import load, save

__all__ = ["load", "save"]
