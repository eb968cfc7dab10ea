"""The ledger as a file: one append-only SQLite table through SQLAlchemy Core, and its errors in plain words.

WAL with synchronous FULL: a commit is on disk before it is reported. Writers take the lock at the start of their
transaction (BEGIN IMMEDIATE), so that reading the total, checking it and appending is one step for all processes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from privfed_accounting.chain import Row
from privfed_accounting.errors import (
    CorruptLedger,
    LedgerBusy,
    LedgerError,
    LedgerFull,
    LedgerReadOnly,
    LedgerUnreadable,
    NotALedger,
)
from privfed_accounting.storage import ENTRIES, SCHEMA_VERSION, Storage, metadata

APPLICATION_ID: Final = 0x70666C31  # "pfl1" in SQLite's header: tells our files from other programs'

_TRIGGERS: Final = {
    f"entries_no_{verb.lower()}": f"CREATE TRIGGER entries_no_{verb.lower()} BEFORE {verb} ON entries "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    for verb in ("UPDATE", "DELETE")
}
_DAMAGE: Final = (0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ORPHANS: Final[list[object]] = []  # engines inherited over a fork: never used, never closed (SQLite forbids both)


class Database(Storage):
    """One SQLite file (or memory), opened by one process; safe to share between threads.

    Args:
        path: the file, made if missing; None for memory.
        read_only: open without the right to write; a missing file is then an error.
        timeout: seconds to wait for another process's lock.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, timeout: float = 10.0) -> None:
        self.path = path
        self.location = None if path is None else str(path)
        self.read_only = read_only
        self._timeout = timeout
        self._lock = threading.RLock()
        self._inode: tuple[int, int] | None = None
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._engine = sa.create_engine("sqlite://", creator=self._connect, poolclass=StaticPool)
        # BEGIN IMMEDIATE for writers; plain BEGIN gives readers one snapshot.
        statement = "BEGIN" if self.read_only else "BEGIN IMMEDIATE"
        sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql(statement))

    def _connect(self) -> sqlite3.Connection:
        # isolation_level None: the driver starts no transactions behind our back.
        options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "timeout": self._timeout}
        if self.path is None:
            connection: sqlite3.Connection = sqlite3.connect(":memory:", **options)
        else:
            connection = sqlite3.connect(self._uri(self.path), uri=True, **options)
        try:
            connection.execute("PRAGMA query_only = ON" if self.read_only else "PRAGMA synchronous = FULL")
            connection.execute("PRAGMA trusted_schema = OFF")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _uri(self, path: Path) -> str:
        quoted = f"file:{urllib.parse.quote(str(path.absolute()))}"
        if not self.read_only:
            return f"{quoted}?mode=rwc"
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            return f"{quoted}?mode=ro"  # a log to read; folding it into the file is for a writer
        # Without a log, even a reader makes one beside the file. It also takes it away again if it may write (and is
        # told not to, below). In a directory that takes no files the ledger is all there is and cannot change under us.
        return f"{quoted}?mode=rw" if os.access(path.parent, os.W_OK) else f"{quoted}?immutable=1"

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction, committed at the end of the block and rolled back on any error.

        Raises:
            LedgerError: a named subclass for every way in which the file can refuse.
        """
        with self._lock, self.translated():
            self._check_process()
            with self._engine.connect() as connection, connection.begin():
                self._check_file()
                yield connection

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the driver's errors into the ledger's."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise translate(error.orig, self.path) from error
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def prepare(self) -> bool:
        """Check that the file is a ledger of a version we know, or empty; switch an empty one to WAL.

        Returns:
            Whether the file is an existing ledger.
        """
        with self._lock, self.translated(), self._driver() as connection:
            application = _ask(connection, "PRAGMA application_id")
            version = _ask(connection, "PRAGMA user_version")
            tables = _ask(connection, "SELECT count(*) FROM sqlite_master")
            if application == APPLICATION_ID and tables:
                self.check_version(int(version))
                self._remember_file()
                return True
            if tables or application or version:
                raise NotALedger(
                    f"{self.path} is a database of another program, expected a ledger: give the ledger its own path"
                )
            if self.read_only:
                raise NotALedger(f"{self.path} is empty, expected a ledger: check the path")
            if self.path is not None:
                self._switch_to_wal(connection)
            self._remember_file()
            return False

    def create_schema(self, connection: sa.Connection) -> None:
        """Create table and triggers inside the caller's transaction."""
        metadata.create_all(connection)
        for trigger in _TRIGGERS.values():
            connection.exec_driver_sql(trigger)
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        self.set_version(connection, SCHEMA_VERSION)

    def set_version(self, connection: sa.Connection, version: int) -> None:
        """Record a schema version in the file's header, inside the caller's transaction."""
        connection.exec_driver_sql(f"PRAGMA user_version = {int(version)}")

    def has_schema(self, connection: sa.Connection) -> bool:
        """Whether the table is there, asked inside the caller's transaction."""
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'entries'"
        return bool(connection.exec_driver_sql(query).scalar_one())

    def rows(self, connection: sa.Connection, *, first: int) -> Iterator[Row]:
        """Stored rows from number `first` on, in order.

        Raises:
            CorruptLedger: names the first row that the damaged file does not give up.
        """
        table = ENTRIES.c
        # As bytes: a text that is no longer UTF-8 is for the chain to judge, not for the driver to stumble on.
        columns = (table.seq, table.kind, sa.cast(table.entry, sa.LargeBinary).label("entry"), table.digest)
        number = first
        try:
            for row in connection.execute(sa.select(*columns).where(table.seq >= first).order_by(table.seq)):
                yield Row(int(row.seq), str(row.kind), bytes(row.entry or b""), str(row.digest))
                number = int(row.seq) + 1
        except (sa.exc.DatabaseError, TypeError, ValueError) as error:
            if isinstance(error, sa.exc.DatabaseError) and _primary_code(error.orig) not in _DAMAGE:
                raise
            raise CorruptLedger(
                f"entry {number} of {self.path} cannot be read, the file is damaged there: restore a backup",
                entry=number,
            ) from error

    def missing_guards(self, connection: sa.Connection) -> list[str]:
        """Names of the append-only triggers that are gone or changed."""
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        found = {str(row[0]): str(row[1]) for row in connection.exec_driver_sql(query)}
        return [name for name, statement in _TRIGGERS.items() if found.get(name) != statement]

    def close(self) -> None:
        """Close the connection; the last one out folds the write-ahead log into the file."""
        with self._lock:
            if self._pid == os.getpid():
                self._engine.dispose()

    @contextlib.contextmanager
    def _driver(self) -> Iterator[sqlite3.Connection]:
        """The driver's own connection, outside any transaction, for the pragmas that need that."""
        pooled = self._engine.raw_connection()
        try:
            connection = pooled.driver_connection
            if not isinstance(connection, sqlite3.Connection):
                raise LedgerError(f"the driver gave a {type(connection).__name__}, expected a connection of sqlite3")
            yield connection
        finally:
            pooled.close()

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        # SQLite does not wait for its own timeout here when two processes switch at once.
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                mode = _ask(connection, "PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            if mode != "wal":
                raise LedgerError(
                    f"{self.path} cannot use a write-ahead log (mode {mode!r}, expected 'wal'): "
                    "put the ledger on a local disk"
                )
            return

    def _check_process(self) -> None:
        if self._pid == os.getpid():
            return
        if self.path is None:
            raise LedgerError("a ledger in memory belongs to the process that made it: share a budget through a file")
        _ORPHANS.append(self._engine)
        self._open()

    def _remember_file(self) -> None:
        if self.path is not None:
            status = os.stat(self.path)
            self._inode = (status.st_dev, status.st_ino)

    def _check_file(self) -> None:
        """SQLite would go on writing into a deleted file, and the charges would vanish with it."""
        if self.path is None or self._inode is None:
            return
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise LedgerUnreadable(f"ledger {self.path} was moved or deleted while in use: put it back") from error
        if (status.st_dev, status.st_ino) != self._inode:
            raise LedgerUnreadable(f"ledger {self.path} was replaced by another file while in use: put it back")


def translate(error: BaseException | None, path: Path | None) -> LedgerError:
    """Ledger's error for a driver's error, with the remedy."""
    name = "the ledger in memory" if path is None else f"ledger {path}"
    code = _primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerBusy(f"{name} is locked by another process, nothing was charged: wait for it and try again")
    if code == sqlite3.SQLITE_READONLY:
        return _read_only(name)
    if code == sqlite3.SQLITE_FULL or (code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _disk_is_full(path)):
        return LedgerFull(f"the disk of {name} is full, nothing was charged: free some space and try again")
    if code == sqlite3.SQLITE_NOTADB:
        return NotALedger(f"{name} is not a database: give the ledger its own path, or restore it from a backup")
    if code == sqlite3.SQLITE_CORRUPT:
        return CorruptLedger(
            f"{name} is damaged ({error}): restore it from a backup, with its -wal file if there is one"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        if path is not None and path.is_file() and os.access(path, os.R_OK) and not os.access(path.parent, os.W_OK):
            return _read_only(name)
        return LedgerUnreadable(
            f"{name} cannot be opened ({error}): check that its directory exists and that both may be read and written"
        )
    return LedgerError(f"{name} failed ({error}): verify it, then try again")


def _read_only(name: str) -> LedgerReadOnly:
    return LedgerReadOnly(f"{name} cannot be written, nothing was charged: make the file and its directory writable")


def _ask(connection: sqlite3.Connection, statement: str) -> Any:
    row: tuple[Any, ...] = connection.execute(statement).fetchone()
    return row[0]


def _primary_code(error: BaseException | None) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _disk_is_full(path: Path | None) -> bool:
    if path is None:
        return False
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < 1 << 16
