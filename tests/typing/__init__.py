"""What type checkers make of flowroute's public names."""
