"""Rotary scalings as tables of frequencies, which is all that a decoder knows of them."""

import math
from collections.abc import Sequence


def frequencies(dimensions: int, base: float, factor: float = 1.0) -> tuple[float, ...]:
    """Angle per position of each of `dimensions` / 2 pairs: base^(-2i / dimensions) / factor.

    factor: linear scaling (position interpolation, arXiv:2306.15595); 1 is none.
    """
    return tuple(base ** (-2 * pair / dimensions) / factor for pair in range(dimensions // 2))


def divided(plain: Sequence[float], factors: Sequence[float]) -> tuple[float, ...]:
    """Frequencies divided one by one, as GGUF's rope_freqs tensor wants."""
    return tuple(frequency / factor for frequency, factor in zip(plain, factors, strict=True))


def llama3(
    plain: Sequence[float], factor: float, low_freq_factor: float, high_freq_factor: float, original_context: int
) -> tuple[float, ...]:
    """Llama 3.1's scaling: long waves are stretched by `factor`, short ones kept, those between blended.

    Wavelengths are compared with original_context / low_freq_factor and / high_freq_factor.
    (llama-models, apply_scaling; rope_type "llama3" of Hugging Face.)
    """

    def scaled(frequency: float) -> float:
        wavelength = 2 * math.pi / frequency
        if wavelength < original_context / high_freq_factor:
            return frequency
        if wavelength > original_context / low_freq_factor:
            return frequency / factor
        smooth = (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
        return (1 - smooth) * frequency / factor + smooth * frequency

    return tuple(scaled(frequency) for frequency in plain)
