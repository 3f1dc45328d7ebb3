"""Software-defined assets: one definition a table that the close writes, each calling exactly one step.

Imports: the engine, never pipelines or checks.
"""
