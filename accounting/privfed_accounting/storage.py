"""What a ledger needs of a database: one append-only table, transactions, a schema version; and which one a name means.

Two databases provide it, `database.Database` (SQLite, a file) and `postgres.PostgresDatabase` (a server). Everything
above works against this interface and cannot tell them apart.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from privfed_accounting.chain import Row
from privfed_accounting.errors import LedgerBusy, LedgerVersionError, ParameterError

SCHEMA_VERSION: Final = 2

metadata: Final = sa.MetaData()
ENTRIES: Final = sa.Table(
    "entries",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("entry", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
)


class Conflict(LedgerBusy):
    """A serializable transaction lost against another one and changed nothing: run it again."""


class Storage(abc.ABC):
    """A database that holds one ledger, as one process sees it; safe to share between threads.

    Attributes:
        path: the file; None in memory and on a server.
        location: what to give to open it again, without a password; None in memory.
        read_only: opened without the right to write.
        version: schema version found by `prepare`; the newest for what is yet empty.
        accepts_older: let an older schema be opened for writing.
    """

    path: Path | None
    location: str | None
    read_only: bool
    version: int = SCHEMA_VERSION
    accepts_older: bool = False  # for migration alone

    @property
    def name(self) -> str:
        """How messages call it."""
        return "the ledger in memory" if self.location is None else f"ledger {self.location}"

    @abc.abstractmethod
    def prepare(self) -> bool:
        """Check that this is a ledger of a version we know, or empty; returns whether it is a ledger."""

    @abc.abstractmethod
    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """One serializable transaction, committed at the end of the block and rolled back on any error.

        Raises:
            Conflict: another transaction came first; nothing was written.
            LedgerError: a named subclass for every way in which the database can refuse.
        """

    @abc.abstractmethod
    def has_schema(self, connection: sa.Connection) -> bool:
        """Whether the table is there, asked inside the caller's transaction."""

    @abc.abstractmethod
    def create_schema(self, connection: sa.Connection) -> None:
        """Create table and guards inside the caller's transaction."""

    @abc.abstractmethod
    def set_version(self, connection: sa.Connection, version: int) -> None:
        """Record another schema version inside the caller's transaction."""

    @abc.abstractmethod
    def rows(self, connection: sa.Connection, *, first: int) -> Iterator[Row]:
        """Stored rows from number `first` on, in order; a damaged one raises CorruptLedger."""

    @abc.abstractmethod
    def missing_guards(self, connection: sa.Connection) -> list[str]:
        """Names of the append-only triggers that are gone, changed or switched off."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the database."""

    def check_version(self, version: int) -> None:
        """Remember the schema version that was found.

        Raises:
            LedgerVersionError: it is newer than this software, or older and to be written; with the remedy.
        """
        if not 1 <= version <= SCHEMA_VERSION:
            raise LedgerVersionError(
                f"{self.name} has schema version {version}, this software knows 1 to {SCHEMA_VERSION}: "
                "use the version of privfed that wrote it, or a newer one"
            )
        if version < SCHEMA_VERSION and not self.read_only and not self.accepts_older:
            raise LedgerVersionError(
                f"{self.name} has schema version {version}, expected {SCHEMA_VERSION} for writing: "
                "privfed_accounting.migrate() brings it up to date and keeps a backup; reading needs no migration"
            )
        self.version = version


def is_url(location: str | Path | None) -> bool:
    """Whether a location is a SQLAlchemy URL rather than a path."""
    return isinstance(location, str) and "://" in location


def file_of(location: str | Path | None) -> Path | None:
    """The file a location means; None in memory or on a server."""
    if location is None:
        return None
    if not is_url(location):
        return Path(location)
    url = parse_url(str(location))
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


def parse_url(location: str) -> sa.URL:
    """Read a SQLAlchemy URL of a database we support; no message repeats a password.

    Raises:
        ParameterError: it is malformed, or names another kind of database.
    """
    try:
        url = sa.make_url(location)
        backend = url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise ParameterError(
            "the URL of a ledger is malformed, expected postgresql://user@host/database or sqlite:///path: correct it"
        ) from None
    if backend not in ("sqlite", "postgresql"):
        raise ParameterError(
            f"the URL of a ledger names a database of kind {backend!r}, expected postgresql or sqlite: use one of them"
        )
    return url


def open_storage(location: str | Path | None, *, read_only: bool = False, timeout: float = 10.0) -> Storage:
    """Open the database that a path, a SQLAlchemy URL or None (memory) means; nothing is checked or written yet.

    Args:
        location: path of an SQLite file, `sqlite:///path`, `postgresql://user@host/database`, or None.
        read_only: without the right to write; a missing file is then an error.
        timeout: seconds to wait for another process's lock, and for a server to answer.

    Raises:
        ParameterError: a URL of another kind.
        LedgerUnreachable: the driver for it is not installed.
    """
    if is_url(location) and parse_url(str(location)).get_backend_name() == "postgresql":
        from privfed_accounting.postgres import PostgresDatabase

        return PostgresDatabase(parse_url(str(location)), read_only=read_only, timeout=timeout)
    from privfed_accounting.database import Database

    return Database(file_of(location), read_only=read_only, timeout=timeout)
