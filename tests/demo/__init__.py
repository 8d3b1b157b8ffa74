"""Tests of the demo: the shop with all its processes."""
