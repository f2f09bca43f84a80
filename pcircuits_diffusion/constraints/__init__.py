"""Constraints on generated text: automata over tokens, and coupled distributions conditioned on them."""
