"""Compiled loops of valuation; each is held against plain Python by tests."""
