"""`flowroute demo`: the example shop with all its processes, and a check that runs it unattended."""
