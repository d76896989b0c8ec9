"""The parts of the fused CPU code: compilation, vectors, tiles, event-driven products."""
