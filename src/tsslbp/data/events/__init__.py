"""Recordings of event cameras: their files, and how they become frames."""
