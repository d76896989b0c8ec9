"""Arrays in, figures out: of a run, of studies, and axes of parallel coordinates."""
