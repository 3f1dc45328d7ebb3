"""AdminService over real gRPC: the same as the command line, to those who show the token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from engine.errors import UsageError
from pipelines.admin.service import serve, token_of
from pipelines.admin.stubs import messages_and_services
from tests.fixtures.books import BookUnderTest
from tests.integration.test_gate_paths import tamper


class Client:
    def __init__(self, book: BookUnderTest) -> None:
        self.messages, services = messages_and_services()
        self.server, port = serve(book.opened, address="127.0.0.1", port=0, certificate=None)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = services.AdminServiceStub(self.channel)
        self.token = f"Bearer {token_of(book.opened)}"

    def run(self, day: object, *, force: bool = False, reason: str = "", token: str | None = None) -> list[Any]:
        request = self.messages.RunEODRequest(date=str(day), force=force, reason=reason)
        metadata = (("authorization", self.token if token is None else token),)
        return list(self.stub.RunEOD(request, metadata=metadata, timeout=120))

    def refused(self, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        with pytest.raises(grpc.RpcError) as refused:
            self.run(*args, **kwargs)
        return refused.value.code(), refused.value.details()

    def stop(self) -> None:
        self.channel.close()
        self.server.stop(grace=0).wait()


@pytest.fixture
def client(book: BookUnderTest) -> Iterator[Client]:
    made = Client(book)
    yield made
    made.stop()


def test_a_date_is_closed_with_the_status_of_each_step_streamed(book: BookUnderTest, client: Client) -> None:
    first, second = book.days
    said = client.run(first)
    assert [s.done for s in said] == [False] * (len(said) - 1) + [True]
    assert {s.status for s in said[:-1]} == {"succeeded"}
    assert {"cutoff", "engine_vs_ledger", "seals"} <= {s.step for s in said}
    assert (said[-1].status, said[-1].exit_code, said[-1].version) == ("sealed", 0, 1)
    digest = book.state_digest()
    # Force runs captures again where the date is not sealed, and changes nothing that is.
    forced = client.run(first, force=True, reason="drill")
    assert (forced[-1].status, forced[-1].exit_code, book.state_digest()) == ("sealed", 0, digest)
    assert book.value("SELECT payload ->> 'reason' FROM events.outbox WHERE subject = 'eod.run.forced'") == "drill"
    preview = client.run(str(second.replace(day=second.day + 1)), force=True, reason="look ahead")
    assert preview[-1].exit_code == 1
    assert preview[-1].message.startswith("preview: ")
    assert book.value("SELECT count(*) FROM close.days WHERE state = 'sealed' AND NOT genesis") == 1


def test_force_passes_no_gate(book: BookUnderTest, client: Client) -> None:
    first = book.days[0]
    tamper(book, first)
    said = client.run(first)
    assert (said[-1].exit_code, said[-1].status) == (1, "cutoff")
    assert {s.step: s.status for s in said}["engine_vs_ledger"] == "failed"
    with book.admin() as connection:
        connection.execute(
            "CREATE FUNCTION public.off_by_one() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN NEW.available := NEW.available + 0.000001; RETURN NEW; END$$"
        )
        connection.execute(
            "CREATE TRIGGER zz BEFORE INSERT ON exchange.engine_balances FOR EACH ROW WHEN (NEW.account = 'u-0001'"
            " AND NEW.asset = 'USDT') EXECUTE FUNCTION public.off_by_one()"
        )
    forced = client.run(first, force=True, reason="it must go out")
    assert (forced[-1].exit_code, forced[-1].status) == (1, "cutoff")
    assert book.value("SELECT count(*) FROM close.seals WHERE kind = 'day'") == 0


def test_who_shows_no_token_or_asks_for_what_cannot_be_is_refused(book: BookUnderTest, client: Client) -> None:
    first = book.days[0]
    for token in ("", "Bearer x", client.token[7:], client.token + "x"):
        assert client.refused(first, token=token)[0] == grpc.StatusCode.UNAUTHENTICATED
    for day, says in (("2099-01-01", "has not come"), ("2020-01-01", "before the first day"), ("soon", ""), ("", "")):
        code, details = client.refused(day)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert says in details
    assert client.refused(first, force=True)[1].startswith("force needs a reason")
    assert client.refused(first, force=True, reason="x" * 100_000)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert book.value("SELECT count(*) FROM close.days WHERE state <> 'open'") == 0


def test_it_listens_to_others_only_with_a_certificate(book: BookUnderTest) -> None:
    with pytest.raises(UsageError, match="no certificate"):
        serve(book.opened, address="0.0.0.0", port=0, certificate=None)
