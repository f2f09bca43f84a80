"""Work done a part at a time, so that temporaries stay small."""


def chunks(total: int, width: int, most: int) -> list[slice]:
    """Slices of `total` things of `width` elements each: of at most `most` elements, but of one thing at least."""
    step = max(1, most // max(1, width))
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]
