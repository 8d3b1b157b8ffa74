"""Chaos: real processes under load, broken at random, healed, and audited in the tables.

Nothing is imported here: the processes that are broken import their part and no more.
"""
