"""Draw: results become figures. Every function takes `ax=None` and returns the Axes."""
