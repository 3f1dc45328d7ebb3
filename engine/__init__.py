"""The domain: pure Python that closes a day.

What belongs here: the matching engine, the ledger, the steps of the close and their store.
What does not: Dagster, dbt, Great Expectations, the command line (see `pipelines`, `assets`, `checks`).
"""
