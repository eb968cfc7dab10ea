"""The server that the tests in this folder talk to."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.postgres.server import NoServer, Server, private_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "postgres":
            item.add_marker(pytest.mark.postgres)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server that PRIVFED_TEST_POSTGRES names, or a private one; without either the tests are skipped."""
    given = os.environ.get("PRIVFED_TEST_POSTGRES")
    if given:
        yield Server(sa.make_url(given).set(drivername="postgresql+psycopg"))
        return
    manager = private_server()
    try:
        started = manager.__enter__()
    except NoServer as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
    started.url = started.url.set(drivername="postgresql+psycopg")
    try:
        yield started
    finally:
        manager.__exit__(None, None, None)


@pytest.fixture
def url(server: Server) -> str:
    """URL of a new, empty database."""
    return server.fresh()
