"""Learners: they talk to a `Federation`, know no engine, and see nothing but releases."""
