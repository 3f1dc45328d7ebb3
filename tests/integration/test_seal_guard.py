"""The seal's guard over raw SQL, as the application: nothing is forged, shadowed, reordered or sealed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal

import psycopg
import pytest

from engine.canonical import jcs
from engine.errors import GateError
from engine.reserves.checkpoint import sign_checkpoint
from engine.reserves.entries import GateVerdict, verdicts_sha256
from engine.reserves.manifest import build_manifest, parse_manifest, sign_manifest
from engine.reserves.merkle import merkle_root
from engine.steps.context import StepContext, StepResult
from engine.steps.liability_trees import header_of
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store import days, log, seals, trees
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook, drop_book, new_book

NAMES = [step.name for step in STEPS]
BEFORE_SEAL = STEPS[: NAMES.index("seals")]


@pytest.fixture(scope="module")
def ready(settings: Settings, servers: Servers) -> Iterator[BookUnderTest]:
    """A book whose two days need only their seals; what is tried on it is refused or rolled back."""
    made = new_book(settings, SMALL, name="seal")
    for day in made.days:
        with made.closing(day) as context:
            for step in BEFORE_SEAL:
                assert run_step(step, context).status == "succeeded"
    yield made
    drop_book(made)


@contextmanager
def refused(state: str, match: str | None = None) -> Iterator[None]:
    with pytest.raises(psycopg.Error, match=match) as caught:
        yield
    assert caught.value.sqlstate == state, str(caught.value)


@dataclass
class Attempt:
    """The application, about to seal a day by hand with the right keys."""

    app: psycopg.Connection
    context: StepContext
    book: BookUnderTest

    @property
    def day(self) -> days.Day:
        found = days.read(self.app, self.context.close_date)
        assert found is not None
        return found

    def seal(self) -> seals.Seal:
        """The seal that would be taken."""
        index = log.lock(self.app)
        header = header_of(self.context, self.day, index)
        day, version = self.context.close_date, header.version
        manifest = build_manifest(
            header,
            assets=trees.read_entries(self.app, header),
            verdicts_sha256=verdicts_sha256(
                [GateVerdict(g.gate, g.scope, g.verdict, g.waiver) for g in days.gates(self.app, day)]
            ),
            other_liabilities=trees.other_liabilities(self.app, day, version),
            receivables=trees.receivables(self.app, day, version),
            prev_checkpoint=seals.last_checkpoint(self.app),
        )
        keys = self.book.keys
        signed = sign_manifest(manifest, keys.manifest_signer())
        return seals.Seal(
            close_date=day,
            version=version,
            kind="day",
            books_sha256=header.books_sha256,
            manifest=signed.data.decode(),
            signature=signed.signature.hex(),
            key_id=signed.key_id,
            snapshot_root=parse_manifest(signed.data).snapshot_root,
            log_index=index,
            checkpoint=self.checkpoint(index, signed.data),
        )

    def checkpoint(self, index: int, data: bytes) -> str:
        root = merkle_root([data])
        return sign_checkpoint(self.context.book.exchange, index + 1, root, self.book.keys.checkpoint_signer())

    def append(self, index: int | None, data: bytes) -> None:
        self.app.execute(
            "INSERT INTO reserves.log_entries (log_index, entry, leaf_hash) VALUES (%s, %s, %s)",
            (index, data, hashlib.sha256(b"\0" + data).digest()),
        )

    def put(self, seal: seals.Seal) -> None:
        """Log entry and seal, as the step writes them."""
        self.append(seal.log_index, seal.manifest.encode())
        seals.insert(self.app, seal)


@contextmanager
def attempt(book: BookUnderTest, day: date) -> Iterator[Attempt]:
    with book.closing(day) as context, book.app() as app, app.transaction(force_rollback=True):
        yield Attempt(app, context, book)


@pytest.fixture
def attempted(ready: BookUnderTest) -> Iterator[Attempt]:
    with attempt(ready, ready.days[0]) as found:
        yield found


@pytest.fixture
def app(ready: BookUnderTest) -> Iterator[psycopg.Connection]:
    with ready.app() as connection:
        yield connection


# What the seal asks for.


def test_seal_of_a_reconciled_day_with_its_own_manifest_is_taken(attempted: Attempt) -> None:
    attempted.put(attempted.seal())
    attempted.app.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert attempted.day.state == "sealed"


def changed(manifest: str, path: str) -> str:
    """The manifest with one value replaced by another of the same kind."""
    value = json.loads(manifest)
    *outer, last = path.split(".")
    at = value
    for key in outer:
        at = at[int(key) if key.isdigit() else key]
    old = at[last]
    if path == "reserves":
        new: object = [
            {"address": "a", "amount": "1", "asset": "BTC"}
            | {"block_hash": "00", "chain": "c", "height": 1, "ownership": "x"}
        ]  # fmt: skip
    elif path in ("other_liabilities", "receivables"):
        new = [{"amount": "1", "asset": "BTC"} | ({"account": "suspense"} if path == "other_liabilities" else {})]
    elif isinstance(old, list):
        new = old[1:]
    elif isinstance(old, int):
        new = old + 1
    elif old is None:
        new = "x" if path == "prev_checkpoint" else 0
    elif old.isdigit():
        new = str(int(old) + 1)
    elif path.endswith("snapshot_at") or path == "close_date":
        new = old.replace("02", "03", 1)
    else:
        new = old[::-1] if old[::-1] != old else old + "x"
    assert new != old
    at[last] = new
    return jcs(value).decode()


FIELDS = (
    "v", "exchange", "seq", "close_date", "version", "snapshot_at", "barrier_seq", "books_sha256", "policy_sha256",
    "assets", "assets.0.asset", "assets.0.decimals", "assets.0.height", "assets.0.root", "assets.0.total",
    "snapshot_root", "reserves", "reserves_root", "other_liabilities", "receivables", "verdicts_sha256",
    "prev_checkpoint", "supersedes",
)  # fmt: skip


def test_fields_tried_are_all_that_a_manifest_has(attempted: Attempt) -> None:
    assert {f.split(".")[0] for f in FIELDS} == set(json.loads(attempted.seal().manifest))
    assert {f.split(".")[2] for f in FIELDS if "." in f} == set(json.loads(attempted.seal().manifest)["assets"][0])


@pytest.mark.parametrize("field", FIELDS)
def test_manifest_that_differs_from_the_tables_in_one_field_is_refused_naming_it(
    attempted: Attempt, field: str
) -> None:
    seal = attempted.seal()
    text = changed(seal.manifest, field)
    assert seal.log_index is not None
    wrong = replace(seal, manifest=text, checkpoint=attempted.checkpoint(seal.log_index, text.encode()))
    with refused("CL011", match=f"differs from the tables in: .*{field.split('.', maxsplit=1)[0]}"):
        attempted.put(wrong)


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace("{", '{"extra":1,', 1),
        lambda text: text.replace("{", '{"version":1,', 1),
        lambda text: text.replace(":", ": ", 1),
        lambda text: text + "\n",
        lambda text: "[" + text + "]",
        lambda text: text[:-1],
        lambda text: "",
    ],
)
def test_manifest_in_any_other_form_is_refused(attempted: Attempt, form: object) -> None:
    seal = attempted.seal()
    text = form(seal.manifest)  # type: ignore[operator]
    assert seal.log_index is not None
    wrong = replace(seal, manifest=text, checkpoint=attempted.checkpoint(seal.log_index, text.encode()))
    with refused("CL011", match="differs from the tables"):
        attempted.put(wrong)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"books_sha256": "0" * 64}, "CL011"),
        ({"version": 2}, "CL011"),
        ({"kind": "genesis", "log_index": None, "checkpoint": None, "snapshot_root": None}, "CL011"),
        ({"snapshot_root": "0" * 64}, "CL011"),
        ({"snapshot_root": None}, "CL011"),
        ({"checkpoint": "test.example/por\n1\nAAAA\n\n"}, "CL013"),
        ({"signature": "00"}, "23514"),
        ({"key_id": "x"}, "23514"),
        ({"close_date": date(2031, 1, 1)}, "CL011"),
    ],
)
def test_seal_whose_own_columns_do_not_fit_is_refused(
    attempted: Attempt, change: dict[str, object], state: str
) -> None:
    seal = attempted.seal()
    attempted.append(seal.log_index, seal.manifest.encode())
    with refused(state):
        seals.insert(attempted.app, replace(seal, **change))  # type: ignore[arg-type]


def test_seal_whose_manifest_is_not_in_the_log_is_refused(attempted: Attempt) -> None:
    seal = attempted.seal()
    with refused("CL013", match="is not entry 0 of the log"):
        seals.insert(attempted.app, seal)


def test_seal_over_another_entry_of_the_log_is_refused(attempted: Attempt) -> None:
    seal = attempted.seal()
    attempted.append(0, b"{}")
    with refused("CL013"):
        seals.insert(attempted.app, seal)


def test_log_entry_without_a_seal_does_not_commit(ready: BookUnderTest) -> None:
    with ready.app() as app:
        with refused("23503", match="log_entries_only_manifests"), app.transaction():
            app.execute("INSERT INTO reserves.log_entries VALUES (0, 'x', sha256('\\x00'::bytea || 'x'))")
        assert app.execute("SELECT count(*) FROM reserves.log_entries").fetchone() == (0,)


def test_log_grows_at_its_end_alone_and_each_leaf_is_its_entrys_hash(attempted: Attempt) -> None:
    app = attempted.app
    app.execute("SAVEPOINT one")
    for index in (1, -1, 7):
        with refused("CL013", match="is not the next one"):
            attempted.append(index, b"x")
        app.execute("ROLLBACK TO one")
    with refused("23514"):
        app.execute("INSERT INTO reserves.log_entries VALUES (0, 'x', sha256('x'))")


def test_open_day_is_not_sealed(make_book: MakeBook) -> None:
    made = make_book()
    with attempt(made, made.days[0]) as found, refused("CL011", match="the day is open"):
        found.app.execute(
            "INSERT INTO close.seals (close_date, version, kind, books_sha256, manifest, signature, key_id)"
            " VALUES (%s, 1, 'genesis', repeat('0', 64), '{}', repeat('0', 128), repeat('0', 16))",
            (made.days[0],),
        )
    zero = made.days[0] - timedelta(days=1)
    with made.app() as app, refused("CL011", match="the day is open"):
        app.execute(
            "INSERT INTO close.seals (close_date, version, kind, books_sha256, manifest, signature, key_id)"
            " VALUES (%s, 1, 'genesis', repeat('0', 64), '{}', repeat('0', 128), repeat('0', 16))",
            (zero,),
        )


def test_next_day_is_not_sealed_before_its_predecessor(ready: BookUnderTest) -> None:
    first, second = ready.days
    with attempt(ready, second) as found:
        assert found.day.state == "reconciled"
        with refused("CL008", match=f"{second} cannot be sealed before {first}"):
            found.put(found.seal())


def test_day_is_sealed_once(sealed_book: BookUnderTest) -> None:
    with sealed_book.app() as app:
        there = seals.read(app, sealed_book.days[0])
        assert there is not None
        for change in ({}, {"version": 2}):
            with refused("CL011", match="the day is sealed v1"):
                seals.insert(app, replace(there, **change))
    genesis = sealed_book.days[0] - timedelta(days=1)
    with sealed_book.app() as app:
        zero = seals.read(app, genesis)
        assert zero is not None
        with refused("CL011", match="the day is sealed"):
            seals.insert(app, zero)


# What the application may not do.

FORBIDDEN = (
    "INSERT INTO recon.verdicts (close_date, version, books_sha256, gate, verdict, detail)"
    " SELECT close_date, version, books_sha256, 'engine_vs_ledger', 'pass', '{}' FROM close.days",
    "UPDATE recon.verdicts SET verdict = 'pass'",
    "DELETE FROM recon.verdicts",
    "INSERT INTO recon.waivers (gate, scope, close_date, asset, amount_cap, reason, maker, checker, expires_at)"
    " VALUES ('engine_vs_ledger', 'book', '2026-03-02', 'ETH', 1e9, 'x', 'a', 'b', 'infinity')",
    "INSERT INTO recon.tolerances (gate, asset, approver, expires_at)"
    " VALUES ('engine_vs_ledger', 'ETH', 'a', 'infinity')",
    "UPDATE recon.breaks SET state = 'closed'",
    "DELETE FROM recon.breaks",
    "INSERT INTO recon.breaks (gate, subject, asset, first_date, last_date, version, books_sha256, expected, actual,"
    " difference) VALUES ('x', 'x', 'x', now(), now(), 1, '', 0, 1, 1)",
    "SELECT recon.close_break(1, 'a', 'b', 'x')",
    "SELECT recon.write_engine_breaks('2026-03-02', 1, '')",
    "UPDATE accounts.holds SET released_by = 'me', released_at = now()",
    "DELETE FROM accounts.holds",
    "UPDATE close.days SET state = 'sealed'",
    "UPDATE close.days SET books_sha256 = NULL",
    "INSERT INTO close.days (close_date) VALUES ('2026-03-09')",
    "DELETE FROM close.days",
    "UPDATE close.leases SET epoch = 1000",
    "INSERT INTO close.leases VALUES ('2026-03-02', 'me', 1, 'infinity')",
    "INSERT INTO close.policies SELECT '2020-01-01', policy, policy_sha256, 'me', 'x' FROM close.policies",
    "UPDATE close.book SET first_day = '2020-01-01'",
    "UPDATE market.mark_prices SET price = price * 2",
    "DELETE FROM market.mark_prices",
    "UPDATE exchange.engine_balances SET available = 0",
    "DELETE FROM exchange.engine_balances",
    "INSERT INTO exchange.engine_balances SELECT * FROM exchange.engine_balances"
    " ON CONFLICT (close_date, version, account, asset) DO UPDATE SET available = 0",
    "MERGE INTO market.mark_prices m USING market.mark_prices n ON m.asset = n.asset WHEN MATCHED THEN DELETE",
    "INSERT INTO ledger.control_totals VALUES ('2026-03-02', 1, 'ETH', 'customer', 0, 0, 0, 0, 0)",
    "INSERT INTO close.user_balance_snapshots SELECT * FROM close.user_balance_snapshots",
    "UPDATE close.user_balance_snapshots SET value = 0",
    "UPDATE reserves.liability_trees SET root = repeat('0', 64)",
    "DELETE FROM reserves.liability_trees",
    "UPDATE close.seals SET manifest = '{}'",
    "DELETE FROM close.seals",
    "TRUNCATE close.seals CASCADE",
    "DELETE FROM close.eod_runs",
    "DELETE FROM events.outbox",
    "UPDATE events.outbox SET payload = '{}'",
    "SET session_replication_role = replica",
    "SET LOCAL session_replication_role = replica",
    "ALTER TABLE close.seals DISABLE TRIGGER ALL",
    "ALTER TABLE close.seals DISABLE TRIGGER guard",
    "DROP TRIGGER guard ON close.seals",
    "ALTER TABLE close.days ADD COLUMN x int",
    "DROP TABLE close.seals CASCADE",
    "CREATE OR REPLACE FUNCTION recon.gate(d date, v integer, g text) RETURNS recon.judgement"
    " LANGUAGE sql AS 'SELECT NULL'",
    "INSERT INTO recon.known_gates VALUES ('marks_fresher', false)",
    "UPDATE recon.known_gates SET late = true",
    "DELETE FROM recon.known_gates WHERE gate = 'marks_fresh'",
    "ALTER FUNCTION recon.judge(date, text, bigint) SET search_path = public",
    "ALTER TABLE close.seals OWNER TO compline_app",
    "SET ROLE compline_admin",
    "SET SESSION AUTHORIZATION compline_admin",
    "CREATE TEMP TABLE days (close_date date)",
    "CREATE TABLE public.days (close_date date)",
    "CREATE VIEW public.days AS SELECT 1",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'",
    "CREATE FUNCTION public.sum(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT 0::numeric'",
    "CREATE OPERATOR public.<> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = numeric_eq)",
    "CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION close.append_only()",
    "CREATE RULE r AS ON INSERT TO close.seals DO INSTEAD NOTHING",
    "CREATE POLICY p ON close.days",
    "COPY close.days TO PROGRAM 'cat'",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> current_user",
    "LOCK TABLE close.days IN ACCESS EXCLUSIVE MODE",
)


@pytest.mark.parametrize("statement", FORBIDDEN, ids=[s[:60] for s in FORBIDDEN])
def test_application_is_refused(ready: BookUnderTest, statement: str) -> None:
    with ready.app() as app, app.transaction(force_rollback=True):
        if statement.startswith("SELECT pg_terminate"):
            with ready.admin(), refused("42501"):
                app.execute(statement.encode())
        else:
            with refused("42501"):
                app.execute(statement.encode())


def test_captures_cannot_be_added_once_the_books_hash_is_fixed(app: psycopg.Connection, ready: BookUnderTest) -> None:
    day = ready.days[0]
    for statement in (
        "INSERT INTO exchange.engine_balances VALUES (%s, 1, 'u-9999', 'ETH', 5, 0, 0, 0)",
        "INSERT INTO exchange.engine_balances VALUES (%s, 2, 'u-9999', 'ETH', 5, 0, 0, 0)",
        "INSERT INTO market.mark_prices SELECT %s, 2, asset, price, source, at FROM market.mark_prices LIMIT 1",
        "INSERT INTO ledger.fee_accruals VALUES (%s, 1, 999, 'ETH', 'maker', 5, 1)",
    ):
        with refused("CL009", match="books hash is"):
            app.execute(statement.encode(), (day,))
        with refused("CL009", match="unknown"):
            app.execute(statement.encode(), (date(2031, 1, 1),))


def test_tree_for_another_hash_or_day_is_refused(app: psycopg.Connection, ready: BookUnderTest) -> None:
    columns = "asset, books_sha256, log_seq, ctx, height, root, total, accounts"
    for day, hash_ in ((ready.days[0], "repeat('0', 64)"), (date(2031, 1, 1), "books_sha256")):
        with refused("CL009", match="no tree is built"):
            app.execute(
                (
                    f"INSERT INTO reserves.liability_trees (close_date, version, {columns}) SELECT %s, 1, "
                    f"{columns.replace('books_sha256', hash_)} FROM reserves.liability_trees LIMIT 1"
                ).encode(),
                (day,),
            )


@pytest.mark.parametrize(
    "call",
    [
        "recon.judge(%(d)s, 'engine_vs_ledger', %(e)s)",
        "close.void_books_hash(%(d)s, %(e)s)",
        "close.replace_engine_balances(%(d)s, %(e)s)",
        "close.replace_mark_prices(%(d)s, %(e)s)",
        "close.fix_books_hash(%(d)s, %(e)s)",
        "close.write_user_balance_snapshots(%(d)s, %(e)s)",
        "ledger.write_control_totals(%(d)s, %(e)s)",
        "ledger.replace_fee_accruals(%(d)s, %(e)s)",
        "reserves.replace_liability_trees(%(d)s, %(e)s)",
        "close.fence(%(d)s, %(e)s)",
    ],
)
def test_nothing_moves_a_day_under_a_made_up_or_past_epoch(ready: BookUnderTest, call: str) -> None:
    day = ready.days[0]
    with ready.closing(day) as context, ready.app() as app:
        for epoch in (0, context.epoch - 1, context.epoch + 1, 10**12, None):
            with refused("CL006", match="no longer holds the lease"):
                app.execute(f"SELECT {call}".encode(), {"d": day, "e": epoch})
        held = context.epoch
    with ready.app() as app, refused("CL006"):
        app.execute(f"SELECT {call}".encode(), {"d": day, "e": held})


@pytest.mark.parametrize(
    "call",
    [
        "recon.judge(%(d)s, 'engine_vs_ledger', %(e)s)",
        "close.void_books_hash(%(d)s, %(e)s)",
        "close.replace_engine_balances(%(d)s, %(e)s)",
        "close.replace_mark_prices(%(d)s, %(e)s)",
        "close.fix_books_hash(%(d)s, %(e)s)",
        "close.write_user_balance_snapshots(%(d)s, %(e)s)",
        "ledger.write_control_totals(%(d)s, %(e)s)",
        "ledger.replace_fee_accruals(%(d)s, %(e)s)",
        "reserves.replace_liability_trees(%(d)s, %(e)s)",
        "close.cut_off_day(%(d)s, %(e)s, 1, now())",
    ],
)
def test_nothing_moves_a_sealed_day_under_the_right_epoch_either(sealed_book: BookUnderTest, call: str) -> None:
    day = sealed_book.days[0]
    with sealed_book.closing(day) as context, sealed_book.app() as app, pytest.raises(psycopg.Error) as caught:
        app.execute(f"SELECT {call}".encode(), {"d": day, "e": context.epoch})
    assert caught.value.sqlstate in ("CL002", "CL008", "CL009")


def test_gate_that_is_none_is_not_judged(ready: BookUnderTest) -> None:
    with attempt(ready, ready.days[0]) as found, refused("CL007", match="there is no gate made_up"):
        found.app.execute("SELECT recon.judge(%s, 'made_up', %s)", (ready.days[0], found.context.epoch))


def test_search_path_of_the_caller_changes_no_verdict(ready: BookUnderTest) -> None:
    with attempt(ready, ready.days[0]) as found:
        for path in ("pg_temp, finance, public", "''", "finance, pg_catalog"):
            found.app.execute(f"SET LOCAL search_path = {path}".encode())
            for gate in ("debits_equal_credits", "engine_vs_ledger", "fee_clearing_swept", "marks_fresh"):
                assert days.judge(found.app, ready.days[0], gate, found.context.epoch) == "pass"
        found.put(found.seal())


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("UPDATE close.eod_runs SET output_digest = 'x' WHERE step_name = 'cutoff'", "CL002"),
        ("UPDATE close.eod_runs SET status = 'failed' WHERE step_name = 'seals'", "CL002"),
        ("UPDATE close.eod_runs SET step_name = 'finance' WHERE step_name = 'cutoff'", "CL003"),
        ("UPDATE close.eod_runs SET close_date = '2031-01-01' WHERE step_name = 'engine_vs_ledger'", "CL003"),
        ("UPDATE close.eod_runs SET version = 2 WHERE step_name = 'evidence_packs'", "CL003"),
        (
            "INSERT INTO close.eod_runs SELECT close_date, 'made_up', version, attempt, epoch, status, input_digest,"
            " output_digest, row_count, metadata, error, run_id, started_at, finished_at FROM close.eod_runs LIMIT 1",
            "CL002",
        ),
    ],
)
def test_runs_of_a_sealed_day_stay_as_they_are(sealed_book: BookUnderTest, statement: str, state: str) -> None:
    with sealed_book.app() as app, refused(state):
        app.execute(statement.encode())


def test_what_follows_the_seal_may_be_recorded_again(sealed_book: BookUnderTest) -> None:
    with sealed_book.app() as app, app.transaction(force_rollback=True):
        done = app.execute("UPDATE close.eod_runs SET attempt = attempt + 1 WHERE step_name = 'evidence_packs'")
        assert done.rowcount == 2


def test_day_keeps_the_policy_that_it_was_cut_off_under(ready: BookUnderTest) -> None:
    copy = (
        "INSERT INTO close.policies (effective_from, policy, policy_sha256, actor, reason)"
        " SELECT %s, policy, policy_sha256, 'x', 'x' FROM close.policies"
    )
    with ready.admin() as owner:
        for day in ready.days:
            with refused("CL014", match="no policy can come into force"):
                owner.execute(copy.encode(), (day,))
        with owner.transaction(force_rollback=True):
            owner.execute(copy.encode(), (ready.days[1] + timedelta(days=1),))
        with refused("23514", match="policies_base_gates"):
            owner.execute(
                "INSERT INTO close.policies (effective_from, policy, policy_sha256, actor, reason)"
                " VALUES ('2031-01-01', '{\"required_gates\": [\"marks_fresh\"]}', repeat('0', 64), 'x', 'x')"
            )


# Waivers.


def waive(book: BookUnderTest, day: date, cap: str, **changes: object) -> None:
    row = {
        "gate": "engine_vs_ledger",
        "scope": "house:fees",
        "close_date": day,
        "asset": "USDT",
        "amount_cap": cap,
        "reason": "known rounding of an upgrade",
        "maker": "ann",
        "checker": "bea",
        "expires_at": "2100-01-01",
    } | changes
    with book.admin() as owner:
        owner.execute(
            f"INSERT INTO recon.waivers ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})".encode(),
            list(row.values()),
        )


def off_by(book: BookUnderTest, day: date, account: str, amount: str) -> StepResult:
    """Close a day whose capture is off, up to its failing gate."""
    with book.closing(day) as context:
        for step in STEPS[: NAMES.index("engine_balances") + 1]:
            run_step(step, context)
    with book.admin() as owner:
        done = owner.execute(
            "UPDATE exchange.engine_balances SET available = available + %s"
            " WHERE close_date = %s AND account = %s AND asset = 'USDT'",
            (amount, day, account),
        )
        assert done.rowcount == 1
    last = book.close(day)[-1]
    assert (last.step, last.status) == ("engine_vs_ledger", "failed")
    return last


def test_waiver_by_two_people_seals_within_its_cap_and_shows_in_the_manifest(make_book: MakeBook) -> None:
    made = make_book()
    day = made.days[0]
    off_by(made, day, "house:fees", "0.5")
    for cap, changes in (
        ("0.499999", {}),
        ("9", {"asset": "BTC"}),
        ("9", {"close_date": made.days[1]}),
        ("9", {"scope": "u-0001"}),
        ("9", {"expires_at": "2026-01-01"}),
        ("9", {"gate": "ledger_vs_custody"}),
    ):
        waive(made, day, cap, **changes)
        assert made.close(day)[-1].status == "failed"
    for bad in (
        {"checker": "ann"},
        {"amount_cap": "NaN"},
        {"amount_cap": "-1"},
        {"gate": "debits_equal_credits"},
        {"reason": ""},
    ):
        with refused("23514"):
            waive(made, day, "9", **bad)
    waive(made, day, "0.5")
    results = made.close(day)
    assert (results[-1].step, results[-1].status) == ("evidence_packs", "succeeded")
    with made.app() as app:
        seal = seals.read(app, day)
        gates = {g.gate: g for g in days.gates(app, day)}
    assert seal is not None
    verdict = gates["engine_vs_ledger"]
    assert (verdict.verdict, verdict.stands) == ("fail", True)
    assert verdict.waiver is not None
    shown = [GateVerdict(g.gate, g.scope, g.verdict, g.waiver) for g in gates.values()]
    hidden = [replace(g, verdict="pass", waiver=None) for g in shown]
    said = parse_manifest(seal.manifest.encode()).verdicts_sha256
    assert said == verdicts_sha256(shown) != verdicts_sha256(hidden)
    assert made.value("SELECT difference FROM recon.breaks WHERE state = 'open'") == Decimal("0.5")


def test_waiver_past_its_expiry_does_not_seal_a_day_that_was_reconciled_under_it(make_book: MakeBook) -> None:
    made = make_book()
    day = made.days[0]
    off_by(made, day, "house:fees", "-0.000001")
    waive(made, day, "0.000001")
    with made.closing(day) as context:
        for step in BEFORE_SEAL:
            assert run_step(step, context).status == "succeeded"
        with made.admin() as owner:
            owner.execute("ALTER TABLE recon.waivers DISABLE TRIGGER USER")
            owner.execute("UPDATE recon.waivers SET expires_at = clock_timestamp() - interval '1 s'")
            owner.execute("ALTER TABLE recon.waivers ENABLE TRIGGER USER")
        with pytest.raises(GateError):
            run_step(STEPS[NAMES.index("seals")], context)
    with attempt(made, day) as found, refused("CL007", match="engine_vs_ledger is fail"):
        seal = found.seal()
        found.put(seal)


def test_waived_break_of_a_customer_seals_with_the_ledgers_balance_and_the_break_listed(make_book: MakeBook) -> None:
    made = make_book()
    day = made.days[0]
    off_by(made, day, "u-0001", "0.5")
    waive(made, day, "1", scope="book")
    assert made.close(day)[-1].step == "evidence_packs"
    assert made.value(
        "SELECT s.total - b.balance FROM close.user_balance_snapshots s JOIN ledger.accounts a USING (account, asset)"
        " JOIN ledger.daily_balances b USING (account_id, close_date)"
        " WHERE s.close_date = %s AND s.account = 'u-0001' AND s.asset = 'USDT'",
        day,
    ) == Decimal(0)
    assert made.value("SELECT state FROM recon.breaks WHERE subject = 'u-0001'") == "open"


def test_unknown_gate_is_covered_by_a_waiver_of_the_whole_book_alone(make_book: MakeBook) -> None:
    made = make_book()
    day = made.days[0]
    with made.closing(day) as context:
        for step in STEPS[: NAMES.index("user_balance_snapshots") + 1]:
            run_step(step, context)
        for scope, stands in (("u-0001", False), ("book", True)):
            waive(made, day, "0", scope=scope)
            with made.admin() as owner, owner.transaction(force_rollback=True):
                owner.execute("DELETE FROM exchange.engine_balances WHERE close_date = %s", (day,))
                assert days.judge(owner, day, "engine_vs_ledger", context.epoch) == "unknown"
                assert {g.gate: g.stands for g in days.gates(owner, day)}["engine_vs_ledger"] is stands
