"""Tests of what runs in the visitor's browser."""
