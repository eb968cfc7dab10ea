"""On a server the ledger keeps every promise it keeps in a file."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from privfed_accounting import (
    Budget,
    BudgetExhausted,
    BudgetMismatch,
    CorruptLedger,
    Ledger,
    Total,
    report_data,
    verify,
)
from privfed_accounting.errors import LedgerReadOnly, NotALedger
from tests.accounting.plans import BUDGET, Clock, open_plan, plan
from tests.postgres.server import Server


def owner(url: str) -> sa.Engine:
    """Somebody with all rights on the database."""
    return sa.create_engine(url, poolclass=sa.pool.NullPool)


def test_a_ledger_from_opening_to_verdict(url: str) -> None:
    with Ledger.open(url, budget=BUDGET, clock=Clock()) as ledger:
        entry = ledger.reserve(plan(mu2=0.1))
        ledger.settle(entry, participants=50, survivors=40, bytes_up=7, facts={"x": 1.5, "unit": "µ"})
        ledger.void(ledger.reserve(plan(mu2=0.1)), reason="nobody came")
        ledger.note("Zürich \x00 done")
        spent, head = ledger.spent(), ledger.head
        assert ledger.path is None
    with Ledger.open(url, budget=Budget(4.0, 1e-6)) as again:
        assert (again.spent(), again.head) == (spent, head)
        assert again.rounds()[0].facts == {"x": 1.5, "unit": "µ"}
        with pytest.raises(BudgetExhausted):
            again.reserve(plan(mu2=again.total_mu2()))
    with pytest.raises(BudgetMismatch):
        Ledger.open(url, budget=Budget(5.0, 1e-6))
    verdict = verify(url, expected_head=head)
    assert verdict.ok, verdict.problems
    assert report_data(url)["ledger"]["head"] == head


def test_the_same_history_in_a_file_and_on_a_server_has_the_same_numbers(url: str, tmp_path_factory) -> None:
    totals = []
    for where in (url, tmp_path_factory.mktemp("file") / "l.db"):
        with Ledger.open(where, budget=BUDGET, clock=Clock()) as ledger:
            for survivors in (50, 35, 41):
                ledger.settle(ledger.reserve(plan(mu2=0.03)), participants=50, survivors=survivors, bytes_up=1)
        verdict = verify(where)
        assert verdict.ok
        totals.append((verdict.views, verdict.entries))
    assert totals[0] == totals[1]


def test_without_a_budget(url: str) -> None:
    with Ledger.open(url, budget=None) as ledger:
        ledger.reserve(open_plan())
    with Ledger.open(url, budget=None) as again:
        again.reserve(open_plan())
        assert len(again.rounds()) == 2
    assert verify(url).ok


def test_reading_does_not_wait_and_does_not_write(url: str) -> None:
    with Ledger.open(url, budget=BUDGET) as ledger, Ledger.open(url, budget=None) as reader:
        ledger.reserve(plan())
        assert reader.rounds() == []
        reader.refresh()
        assert len(reader.rounds()) == 1
        with pytest.raises(LedgerReadOnly, match="open it with its budget"):
            reader.note("x")
        with reader._database.transaction() as connection, pytest.raises(sa.exc.InternalError, match="read-only"):
            connection.exec_driver_sql("INSERT INTO entries VALUES (99, 'note', 'x', 'y')")


@pytest.mark.parametrize("table", ["entries", "privfed_ledger"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_tables_themselves_refuse_changes(url: str, table: str, statement: str) -> None:
    Ledger.open(url, budget=BUDGET).close()
    column = {"entries": "kind", "privfed_ledger": "version"}[table]
    with owner(url).connect() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
        connection.exec_driver_sql(statement.format(table, column, column))


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER entries_no_update ON entries",
        "ALTER TABLE entries DISABLE TRIGGER entries_no_update",
        "DROP TRIGGER entries_no_update ON entries; CREATE TRIGGER entries_no_update BEFORE UPDATE ON privfed_ledger "
        "FOR EACH ROW EXECUTE FUNCTION privfed_append_only()",
        "DROP TRIGGER entries_no_update ON entries; CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries "
        "FOR EACH ROW WHEN (false) EXECUTE FUNCTION privfed_append_only()",
    ],
)
def test_a_guard_that_is_gone_is_noticed(url: str, statement: str) -> None:
    Ledger.open(url, budget=BUDGET).close()
    with owner(url).begin() as connection:
        for part in statement.split("; "):
            connection.exec_driver_sql(part)
    assert verify(url).problems == [
        "the guards entries_no_update against changing entries were removed or switched off"
    ]


def test_a_guard_that_lets_everything_through_is_noticed(url: str) -> None:
    Ledger.open(url, budget=BUDGET).close()
    with owner(url).begin() as connection:
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION privfed_append_only() RETURNS trigger LANGUAGE plpgsql "
            "AS 'BEGIN RETURN NEW; END'"
        )
    assert "entries_no_update, entries_no_delete, entries_no_truncate" in verify(url).problems[0]


@pytest.mark.parametrize(
    ("statements", "entry", "message"),
    [
        (
            ["UPDATE entries SET entry = replace(entry, '\"dimension\":100', '\"dimension\":1') WHERE seq = 4"],
            4,
            "edited",
        ),
        (["DELETE FROM entries WHERE seq = 4"], 4, "missing"),
        (["DELETE FROM entries WHERE seq = 1"], 1, "missing"),
        (
            [
                "UPDATE entries SET seq = -1 WHERE seq = 4",
                "UPDATE entries SET seq = 4 WHERE seq = 6",
                "UPDATE entries SET seq = 6 WHERE seq = -1",
            ],
            4,
            "reordered",
        ),
    ],
)
def test_what_an_owner_changed_is_found_and_named(url: str, statements: list[str], entry: int, message: str) -> None:
    with Ledger.open(url, budget=BUDGET) as ledger:
        for _ in range(4):
            ledger.settle(ledger.reserve(plan()), participants=50, survivors=40, bytes_up=1)
    with owner(url).begin() as connection:
        connection.exec_driver_sql("ALTER TABLE entries DISABLE TRIGGER ALL")
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("ALTER TABLE entries ENABLE TRIGGER ALL")
    for budget in (BUDGET, None):
        with pytest.raises(CorruptLedger, match=f"entry {entry}.*{message}") as error:
            Ledger.open(url, budget=budget)
        assert error.value.entry == entry
    assert f"entry {entry}" in verify(url).problems[0]


def test_rolled_back_under_an_open_ledger(url: str) -> None:
    with Ledger.open(url, budget=BUDGET) as ledger:
        ledger.reserve(plan())
        with owner(url).begin() as connection:
            connection.exec_driver_sql("ALTER TABLE entries DISABLE TRIGGER ALL")
            connection.exec_driver_sql("DELETE FROM entries WHERE seq = 2")
        with pytest.raises(CorruptLedger, match="entry 2 changed or vanished"):
            ledger.reserve(plan())


def test_every_schema_holds_one_ledger(server: Server, url: str) -> None:
    with owner(url).begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA left_one")
        connection.exec_driver_sql("CREATE SCHEMA right_one")
    urls = [f"{url}?options=-csearch_path%3D{name}" for name in ("left_one", "right_one")]
    for number, each in enumerate(urls):
        with Ledger.open(each, budget=BUDGET) as ledger:
            for _ in range(number):
                ledger.reserve(plan())
    assert [verify(each).rounds for each in urls] == [0, 1]
    with pytest.raises(NotALedger, match="empty"):
        verify(url)


def test_another_programs_tables(url: str) -> None:
    with owner(url).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE entries (x int)")
    for open_it in (
        lambda: Ledger.open(url, budget=BUDGET),
        lambda: Ledger.open(url, budget=None),
        lambda: verify(url),
    ):
        with pytest.raises(NotALedger, match="a schema of its own"):
            open_it()


def test_a_role_that_may_only_read_and_insert_is_enough(server: Server, url: str) -> None:
    Ledger.open(url, budget=BUDGET).close()
    role, database = f"role_{sa.make_url(url).database}", sa.make_url(url)
    with owner(url).begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'pass word'")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT ON entries TO {role}")
        connection.exec_driver_sql(f"GRANT SELECT ON privfed_ledger TO {role}")
    mine = database.set(username=role, password="pass word").render_as_string(hide_password=False)
    with Ledger.open(mine, budget=BUDGET) as ledger:
        ledger.reserve(plan())
        assert ledger.spent() == Total.of([plan().charge("server")])
    with owner(url).begin() as connection:
        connection.exec_driver_sql(f"REVOKE INSERT ON entries FROM {role}")
    with Ledger.open(mine, budget=BUDGET) as ledger, pytest.raises(LedgerReadOnly, match="nothing was charged: grant"):
        ledger.reserve(plan())
