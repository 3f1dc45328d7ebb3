"""Sanctions lists: what an entry is, who provides a list, and reading the formats that lists come in.

What belongs here: the protocol of a provider, the records, and one parser a format.
What does not: fetching (see `engine.gateways.list_files`), storing (see `engine.store.screening`), comparing.

Formats. `plain`: UTF-8, a first line `compline-list/1<TAB>VERSION`, then `ENTRY<TAB>name|address<TAB>VALUE` lines.
`sdn_xml`: OFAC's SDN.XML with names, aliases and digital currency addresses. `sdn_csv`: OFAC's SDN.CSV, which has
names, and in its remarks some aliases and the addresses; the other aliases are in ALT.CSV: prefer the XML.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from engine.canonical import sha256_jcs
from engine.errors import ConfigError, InputError
from engine.screening.names import normal

LARGEST = 256 << 20
"""Bytes of a list; more is no list."""
_NULL = "-0-"
_ADDRESS = re.compile(r"Digital Currency Address - [A-Z0-9]+ ([^\s;]+?)[;.]?(?=\s|;|$)")
_ALIAS = re.compile(r"[af]\.k\.a\. '([^']+)'")
_ENTRY_ID = re.compile(r"[!-~]{1,64}")
_UNSCREENED = frozenset(("vessel", "aircraft"))
"""Types of SDN entries whose names are of no person or company; their addresses count."""


@dataclass(frozen=True)
class ListEntry:
    """One person or company on a list.

    Attributes:
        entry_id: its number or id there.
        names: name and aliases, as written.
        addresses: crypto addresses, as written.
    """

    entry_id: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """Hex hash over all that the list says of it: its version."""
        return sha256_jcs({"addresses": sorted(self.addresses), "entry": self.entry_id, "names": sorted(self.names)})


@dataclass(frozen=True)
class ScreeningList:
    """A list in one version.

    Attributes:
        name: as the policy names it.
        version: as it calls itself (a date, mostly); the beginning of its hash where it says nothing.
        sha256: hex hash of its bytes.
        entries: by id.
    """

    name: str
    version: str
    sha256: str
    entries: tuple[ListEntry, ...]


class ListProvider(Protocol):
    """Who provides a list."""

    @property
    def name(self) -> str:
        """As the policy names the list."""
        ...

    def fetch(self) -> bytes:
        """The list as it is now, raw.

        Raises:
            UncheckedError: it cannot be had; that is never an empty list.
        """
        ...


@dataclass(frozen=True)
class ListSpec:
    """A list that a policy wants: `NAME:FORMAT`."""

    name: str
    format: str

    @classmethod
    def parse(cls, text: str) -> ListSpec:
        """Read `ofac:sdn_xml`.

        Raises:
            ConfigError: anything else.
        """
        name, _, kind = text.partition(":")
        if not re.fullmatch(r"[a-z0-9_-]{1,32}", name) or kind not in FORMATS:
            raise ConfigError(
                f"{text!r} names no list",
                rule=f"NAME:FORMAT with a format of {', '.join(FORMATS)}",
                next_step="correct screening_lists in the policy",
            )
        return cls(name, kind)


def read_list(spec: ListSpec, raw: bytes) -> ScreeningList:
    """Read a list.

    Args:
        spec: its name and format.
        raw: its bytes.

    Raises:
        InputError: it is damaged, cut short, empty, or says an entry twice; nothing of it can be trusted then.
    """
    if len(raw) > LARGEST:
        raise _bad(spec, f"has {len(raw)} bytes")
    digest = hashlib.sha256(raw).hexdigest()
    version, entries = FORMATS[spec.format](spec, raw)
    if not entries:
        raise _bad(spec, "has no entry")
    seen: set[str] = set()
    for entry in entries:
        if not _ENTRY_ID.fullmatch(entry.entry_id) or entry.entry_id in seen:
            raise _bad(spec, f"entry {entry.entry_id!r} is there twice, or is no id")
        seen.add(entry.entry_id)
        for name in entry.names:
            if not normal(name) or "\x00" in name:
                raise _bad(spec, f"entry {entry.entry_id} has a name without letters")
        for address in entry.addresses:
            if not address.isascii() or not address.isprintable() or len(address) > 128:
                raise _bad(spec, f"entry {entry.entry_id} has an address that is none")
    if not re.fullmatch(r"[!-~]{0,64}", version):
        raise _bad(spec, "its version is not printable")
    return ScreeningList(spec.name, version or digest[:16], digest, tuple(entries))


def _bad(spec: ListSpec, what: str) -> InputError:
    return InputError(
        f"list {spec.name} ({spec.format}): {what}",
        rule="a list is read whole or not at all",
        next_step="fetch it again; until then screening is UNKNOWN",
    )


def _text(spec: ListSpec, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig").rstrip("\x1a")
    except UnicodeDecodeError as error:
        raise _bad(spec, f"byte {error.start} is not UTF-8") from None


def _plain(spec: ListSpec, raw: bytes) -> tuple[str, list[ListEntry]]:
    lines = _text(spec, raw).splitlines()
    head = lines[0].split("\t") if lines else []
    if len(head) != 2 or head[0] != "compline-list/1" or not head[1]:
        raise _bad(spec, "its first line is not compline-list/1<TAB>VERSION")
    found: dict[str, dict[str, list[str]]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 3 or fields[1] not in ("name", "address") or not fields[2].strip():
            raise _bad(spec, f"line {number} is not ENTRY<TAB>name|address<TAB>VALUE")
        found.setdefault(fields[0], defaultdict(list))[fields[1]].append(fields[2].strip())
    return head[1], [_entry(key, said["name"], said["address"]) for key, said in found.items()]


def _entry(entry_id: str, names: list[str], addresses: list[str]) -> ListEntry:
    return ListEntry(entry_id, tuple(dict.fromkeys(names)), tuple(dict.fromkeys(addresses)))


def _sdn_csv(spec: ListSpec, raw: bytes) -> tuple[str, list[ListEntry]]:
    entries = []
    try:
        for number, row in enumerate(csv.reader(io.StringIO(_text(spec, raw), newline=""), strict=True), 1):
            if not row:
                continue
            if len(row) != 12 or not row[0].strip().isdigit():
                raise _bad(spec, f"line {number} is no row of SDN.CSV: 12 columns, the first a number")
            name, kind, remarks = row[1].strip(), row[2].strip(), row[11]
            names = [] if kind in _UNSCREENED or name in ("", _NULL) else [name, *_ALIAS.findall(remarks)]
            entries.append(_entry(row[0].strip(), names, _ADDRESS.findall(remarks)))
    except csv.Error as error:
        raise _bad(spec, str(error)) from None
    return "", entries


def _sdn_xml(spec: ListSpec, raw: bytes) -> tuple[str, list[ListEntry]]:
    if b"<!DOCTYPE" in raw[:4096] or b"<!ENTITY" in raw:
        raise _bad(spec, "declares entities, which a list has no need of")
    version, count = "", None
    entries = []
    try:
        for _, node in ET.iterparse(io.BytesIO(raw)):
            tag = _tag(node)
            if tag == "Publish_Date":
                version = _iso_date(spec, (node.text or "").strip())
            elif tag == "Record_Count":
                count = (node.text or "").strip()
            elif tag == "sdnEntry":
                entries.append(_sdn_entry(node))
                node.clear()
    except ET.ParseError as error:
        raise _bad(spec, str(error)) from None
    if not version or count != str(len(entries)):
        raise _bad(spec, f"it counts {count} entries and has {len(entries)}, published {version or 'never'}")
    return version, entries


def _sdn_entry(node: ET.Element) -> ListEntry:
    screened = _said(node, "sdnType").lower() not in _UNSCREENED
    people = [node, *(aka for group in _under(node, "akaList") for aka in _under(group, "aka"))]
    names = [f"{_said(one, 'firstName')} {_said(one, 'lastName')}".strip() for one in people] if screened else []
    ids = [one for group in _under(node, "idList") for one in _under(group, "id")]
    addresses = [_said(one, "idNumber") for one in ids if _said(one, "idType").startswith("Digital Currency Address")]
    return _entry(_said(node, "uid"), [name for name in names if name], addresses)


def _tag(node: ET.Element) -> str:
    return node.tag.rpartition("}")[2]


def _under(node: ET.Element, tag: str) -> Iterator[ET.Element]:
    return (child for child in node if _tag(child) == tag)


def _said(node: ET.Element, tag: str) -> str:
    return next(((child.text or "").strip() for child in _under(node, tag)), "")


def _iso_date(spec: ListSpec, text: str) -> str:
    found = re.fullmatch(r"(\d\d)/(\d\d)/(\d{4})", text)
    if not found:
        raise _bad(spec, f"was published {text!r}, which is no date MM/DD/YYYY")
    return f"{found[3]}-{found[1]}-{found[2]}"


FORMATS: dict[str, Callable[[ListSpec, bytes], tuple[str, list[ListEntry]]]] = {
    "plain": _plain,
    "sdn_csv": _sdn_csv,
    "sdn_xml": _sdn_xml,
}
"""Parsers by the name of their format: they give the version that the list says, and its entries."""
