"""The schema, as Alembic migrations whose text is plain SQL in `sql/NNNN/`, one file a subject."""
