"""Finance: the dbt marts of a sealed day, as one step and one set of asset definitions.

What belongs here: preparing and invoking the dbt project, and what Dagster shows of it.
What does not: the models themselves (see `dbt/`). Nothing that dbt writes is read by a close.
"""
