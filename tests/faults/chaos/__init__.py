"""Chaos: real processes under load, broken at random, healed, and audited in the tables."""

from __future__ import annotations

from tests.faults.chaos.campaign import HEAL_SECONDS, campaign, controls
from tests.faults.chaos.directed import dead_worker, raw_rq_heals

__all__ = ["HEAL_SECONDS", "campaign", "controls", "dead_worker", "raw_rq_heals"]
