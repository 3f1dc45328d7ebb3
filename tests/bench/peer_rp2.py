"""rp2 on a file of fills: its gain and the parts of its disposals, as JSON. Run by a Python that has rp2.

What belongs here: fills as rp2's transactions, as its own reader makes them. What does not: comparing (see
`test_bench_lots`).
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

_HEADERS = {
    "in": "timestamp asset exchange holder transaction_type spot_price crypto_in crypto_fee",
    "out": "timestamp asset exchange holder transaction_type spot_price crypto_out_no_fee crypto_fee",
    "intra": "timestamp asset from_exchange from_holder to_exchange to_holder spot_price crypto_sent crypto_received",
}


def main(path: str, method: str) -> None:
    """Print what rp2 computes."""
    decimal = import_module("rp2.rp2_decimal").RP2Decimal
    configuration_of = import_module("rp2.configuration").Configuration
    entries = import_module("rp2.entry_types").EntrySetType
    transactions: Any = import_module("rp2.transaction_set").TransactionSet
    came, went = import_module("rp2.in_transaction").InTransaction, import_module("rp2.out_transaction").OutTransaction
    engine_of = import_module("rp2.accounting_engine").AccountingEngine
    lots = import_module(f"rp2.plugin.accounting_method.{method}").AccountingMethod
    tree = import_module("prezzemolo.avl_tree").AVLTree
    country = import_module("rp2.plugin.country.us").US()
    text = "[general]\nassets = B1\nexchanges = X\nholders = Me\n" + "".join(
        f"[{table}_header]\n" + "".join(f"{name} = {n}\n" for n, name in enumerate(names.split()))
        for table, names in _HEADERS.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rp2.ini"
        file.write_text(text, encoding="utf-8")
        configuration = configuration_of(str(file), country)
    sets = {
        kind: transactions(configuration, kind.value, "B1") for kind in entries if kind.value in ("in", "out", "intra")
    }
    with open(path, newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    row = 0
    zero = decimal("0")
    for line in rows:
        fee, price, amount = (decimal(line[name]) for name in ("fee", "price", "quantity"))
        row += 2
        at = (line["executed_at"].replace("T", " "), "B1", "X", "Me")
        if line["side"] == "sell":
            sets[entries.OUT].add_entry(went(configuration, *at, "Sell", price, amount, fee, row=row))
            continue
        sets[entries.IN].add_entry(came(configuration, *at, "Buy", price, amount, fiat_fee=fee * price, row=row))
        if fee > zero:
            sets[entries.OUT].add_entry(went(configuration, *at, "Fee", price, zero, fee, row=row + 1))
    data = import_module("rp2.input_data").InputData("B1", sets[entries.IN], sets[entries.OUT], sets[entries.INTRA])
    years = tree()
    years.insert_node(1970, lots())
    started = time.perf_counter()
    computed = import_module("rp2.tax_engine").compute_tax(configuration, engine_of(years), data)
    seconds = time.perf_counter() - started
    parts = [
        (str(p.crypto_amount), str(p.taxable_event_fiat_amount_with_fee_fraction), str(p.fiat_cost_basis))
        for p in computed.gain_loss_set
    ]
    gain = sum((p.fiat_gain for p in computed.gain_loss_set), zero)
    sys.stdout.write(json.dumps({"gain": str(gain), "parts": parts, "seconds": f"{seconds:.3f}"}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
