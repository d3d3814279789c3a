"""Seeds made of a request's own, for what is drawn more than once."""

_WORD = (1 << 64) - 1


def derived_seed(seed: int, index: int) -> int:
    """The seed of choice `index` (1, 2, ...): the index-th output of SplitMix64 begun at `seed`.

    (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")
    """
    mixed = (seed + index * 0x9E3779B97F4A7C15) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return mixed ^ (mixed >> 31)
