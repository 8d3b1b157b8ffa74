"""The engine: flows, their runs, and what keeps both. It knows no web framework and no queue."""
