"""Constraints on generated text: automata over tokens, and coupled distributions conditioned on them."""

from pcircuits_diffusion.constraints.automaton import TokenAutomaton
from pcircuits_diffusion.constraints.builders import dfa, fixed_length, json_schema, must_contain, regex
from pcircuits_diffusion.constraints.combine import complement, intersection, minimised, union
from pcircuits_diffusion.constraints.posterior import ConstrainedPosterior
from pcircuits_diffusion.constraints.spelling import spellings
from pcircuits_diffusion.constraints.text import ConstrainedText, Constraint

__all__ = [
    "ConstrainedPosterior",
    "ConstrainedText",
    "Constraint",
    "TokenAutomaton",
    "complement",
    "dfa",
    "fixed_length",
    "intersection",
    "json_schema",
    "minimised",
    "must_contain",
    "regex",
    "spellings",
    "union",
]
