"""Recordings of event cameras: their file formats, and how they are binned into frames."""
