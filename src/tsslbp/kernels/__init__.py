"""What the fused CPU code is made of: compilation, vectors, tiles, event-driven products."""
