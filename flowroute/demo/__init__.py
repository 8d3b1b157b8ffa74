"""`flowroute demo`: the example shop with its processes, and a check that runs it unattended."""
