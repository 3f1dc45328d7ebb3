"""Staking against a real chain: the contract's total at the finalised block is what users have staked in the ledger."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from engine.close.policy import GATES, STAKING_VS_CHAIN, Policy
from engine.money import to_units
from engine.store import days, reopening
from pipelines import collect
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.evm_node import EvmNode
from tests.integration.test_chain import bury

BASE = Policy(reporting_currency="USDT", mark_max_age_s=86_400)


class _Secret(str):
    def get_secret_value(self) -> str:
        return str(self)


def staked_book(make_book: MakeBook, node: EvmNode) -> tuple[BookUnderTest, str, str, Any]:
    """A book whose policy names a contract that holds what its users have staked, and the asset."""
    probe = make_book()
    asset = (
        probe.value("SELECT asset FROM ledger.accounts WHERE sub_account = 'staked' AND balance <> 0 LIMIT 1") or "ETH"
    )
    first = probe.days[0]
    cut = BASE.cutoff_rule.instant(first)
    pool = node.deploy_pool(cut - timedelta(hours=20))
    policy = replace(BASE, staking_contracts=((pool, str(asset), 18),), required_gates=(*GATES, STAKING_VS_CHAIN))
    return make_book(policy=policy), pool, str(asset), cut


def collected(book: BookUnderTest, node: EvmNode) -> list[collect.Collected]:
    settings = book.opened.settings.model_copy(update={"chain_url": _Secret(node.url)})
    return collect.collect(replace(book.opened, settings=settings), book.days[0])


def staked_in_ledger(book: BookUnderTest, asset: str) -> int:
    query = (
        "SELECT coalesce(sum(e.amount), 0) FROM ledger.ledger_entries e JOIN ledger.accounts a USING (account_id)"
        " WHERE a.sub_account = 'staked' AND a.asset = %s AND e.close_date = %s"
    )
    return to_units(book.value(query, asset, book.days[0]), 18, record="staked")  # type: ignore[arg-type]


def gate(book: BookUnderTest) -> days.Gate:
    with book.app() as connection:
        return next(g for g in days.gates(connection, book.days[0]) if g.gate == STAKING_VS_CHAIN)


def test_total_off_by_one_is_a_break_and_a_reorganised_chain_is_read_anew(
    make_book: MakeBook, evm_node: EvmNode
) -> None:
    book, pool, asset, cut = staked_book(make_book, evm_node)
    day = book.days[0]
    evm_node.stake(pool, staked_in_ledger(book, asset) + 1, cut - timedelta(hours=2))
    fork = evm_node.call("evm_snapshot")
    assert "older than the cut-off" in collected(book, evm_node)[0].result
    assert book.close(day)[-1].status == "unknown"
    assert gate(book).verdict == "unknown"
    bury(evm_node, cut + timedelta(hours=1))
    assert collected(book, evm_node)[0].result == "stored"
    assert book.close(day)[-1].status == "failed"
    assert gate(book).detail["shown"][0]["difference"] == "0.000000000000000001"
    assert evm_node.call("evm_revert", fork)
    evm_node.stake(pool, -1, cut - timedelta(hours=1))
    later = evm_node.call("evm_snapshot")
    bury(evm_node, cut + timedelta(hours=1))
    assert collected(book, evm_node)[0].result == "stored"
    assert book.close(day)[-1].step == "evidence_packs"
    blocks = gate(book).detail["blocks"]
    assert blocks[0]["hash"] == evm_node.call("eth_getBlockByNumber", hex(blocks[0]["height"]), False)["hash"]
    assert book.value("SELECT count(*) FROM capture.readings WHERE source = 'evm'") == 2
    assert collected(book, evm_node)[0].result == "unchanged"

    # The chain is reorganised past its finality, after the seal: told, kept beside, and the date closes again on it.
    assert evm_node.call("evm_revert", later)
    evm_node.stake(pool, 2, cut - timedelta(minutes=30))
    bury(evm_node, cut + timedelta(hours=1))
    again = collected(book, evm_node)[0]
    assert again.result == "stored"
    assert "and is" in again.changed
    assert blocks[0]["hash"] in again.changed
    event = "SELECT payload ->> 'what' FROM events.outbox WHERE subject = 'eod.reading.changed'"
    assert book.value(event) == again.changed
    with book.app() as connection:
        reopening.reopen(connection, day, reason="the chain was reorganised", maker="ada", checker="ben")
    assert book.close(day)[-1].step == "staking_vs_chain"
    assert gate(book).detail["shown"][0]["difference"] == "0.000000000000000002"
    assert book.value("SELECT count(DISTINCT sha256) FROM capture.readings WHERE source = 'evm'") == 4
    with book.admin() as owner:
        kept = owner.execute("SELECT version, block_hash FROM chain.staking_totals ORDER BY 1").fetchall()
    assert kept[0] == (1, blocks[0]["hash"])
    assert [version for version, _ in kept] == [1, 2]
