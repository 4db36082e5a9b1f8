"""From text to vectors: instructions, tokens, batching, attention, encoder, pooling, dimensions; engine wires them."""
