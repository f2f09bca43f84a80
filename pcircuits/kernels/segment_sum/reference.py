"""The definition of a sum over segments. Derivation: the README beside this file."""

from pcircuits.types import Float, Int, Tensor


def segment_sum(
    values: Float[Tensor, "M K"],
    segments: Int[Tensor, " N"],
    num_segments: int,
    sources: Int[Tensor, " N"] | None = None,
    factors: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "S K"]:
    """`out[s] = sum of factors[n] values[sources[n]]` over the `n` with `segments[n] == s`; a negative one is none."""
    terms = values if sources is None else values.index_select(0, sources)
    terms = terms if factors is None else terms * factors.unsqueeze(-1)
    kept = segments >= 0
    out = values.new_zeros(num_segments, values.shape[1])
    return out.index_add(0, segments.clamp_min(0), terms * kept.to(terms.dtype).unsqueeze(-1))
