"""What Qdrant and Edge have in common where vectors are compressed."""

from __future__ import annotations

from sightline.types import Quantization

# How many times more candidates than hits are taken by the compressed vectors, before the vectors themselves decide.
OVERSAMPLING = {
    Quantization.SCALAR: 3.0,
    Quantization.BINARY: 8.0,
    Quantization.TURBO1: 8.0,
    Quantization.TURBO2: 4.0,
    Quantization.TURBO4: 3.0,
    Quantization.TURBO8: 3.0,
}
