"""Lists in the formats that they come in, and what makes one unreadable."""

from __future__ import annotations

import pytest

from engine.errors import InputError
from engine.screening.lists import ListEntry, ListSpec, read_list
from tests.fixtures.screening import Names, plain_list

A = b"12QtD5BFwRsdNsAZY76UVE1xyCGNTojH9h"
B = b"0xAbCdEf0123456789aBcDeF0123456789AbCdEf01"
SDN_XML = b"""<?xml version="1.0" standalone="yes"?>
<sdnList xmlns="https://sanctionslistservice.ofac.treas.gov/api/PublicationPreview/exports/XML">
  <publshInformation><Publish_Date>03/01/2026</Publish_Date><Record_Count>3</Record_Count></publshInformation>
  <sdnEntry><uid>36</uid><lastName>AEROCARIBBEAN AIRLINES</lastName><sdnType>Entity</sdnType>
    <programList><program>CUBA</program></programList>
    <akaList><aka><uid>12</uid><type>a.k.a.</type><category>strong</category><lastName>AERO-CARIBBEAN</lastName></aka></akaList>
  </sdnEntry>
  <sdnEntry><uid>4711</uid><firstName>Vladimir</firstName><lastName>ORLOV</lastName><sdnType>Individual</sdnType>
    <idList><id><uid>1</uid><idType>Passport</idType><idNumber>A1</idNumber></id>
      <id><uid>2</uid><idType>Digital Currency Address - XBT</idType><idNumber>$A</idNumber></id>
      <id><uid>3</uid><idType>Digital Currency Address - ETH</idType><idNumber>$B</idNumber></id>
    </idList>
  </sdnEntry>
  <sdnEntry><uid>99</uid><lastName>MARIA</lastName><sdnType>Vessel</sdnType></sdnEntry>
</sdnList>""".replace(b"$A", A).replace(b"$B", B)
SDN_CSV = (
    b'36,"AEROCARIBBEAN AIRLINES",-0- ,"CUBA",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- \r\n'
    b'4711,"ORLOV, Vladimir","individual","CYBER2",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,"DOB 01 Jan 1970; a.k.a. '
    b"'VOVA ORLOV'; Digital Currency Address - XBT 12QtD5BFwRsdNsAZY76UVE1xyCGNTojH9h; alt. Digital Currency Address"
    b' - ETH 0xAbCdEf0123456789aBcDeF0123456789AbCdEf01."\r\n'
    b'99,"MARIA","vessel","CUBA",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- \r\n\x1a'
)
ADDRESSES = (A.decode(), B.decode())


def test_sdn_xml_has_names_aliases_and_addresses_and_no_names_of_vessels() -> None:
    found = read_list(ListSpec("ofac", "sdn_xml"), SDN_XML)
    assert found.version == "2026-03-01"
    assert found.entries == (
        ListEntry("36", ("AEROCARIBBEAN AIRLINES", "AERO-CARIBBEAN"), ()),
        ListEntry("4711", ("Vladimir ORLOV",), ADDRESSES),
        ListEntry("99", (), ()),
    )


def test_sdn_csv_has_names_and_what_the_remarks_say() -> None:
    found = read_list(ListSpec("ofac", "sdn_csv"), SDN_CSV)
    assert found.version == found.sha256[:16]
    assert [entry.names for entry in found.entries] == [
        ("AEROCARIBBEAN AIRLINES",),
        ("ORLOV, Vladimir", "VOVA ORLOV"),
        (),
    ]
    assert [entry.addresses for entry in found.entries] == [(), ADDRESSES, ()]


def test_plain_list_joins_the_lines_of_an_entry() -> None:
    raw = plain_list("2026-03-01", [("a", "name", "Ann Lee"), ("b", "address", "0x1"), ("a", "name", "Anna Lee")])
    found = read_list(ListSpec("house", "plain"), raw + b"\n# a remark\n\n")
    assert found.entries == (ListEntry("a", ("Ann Lee", "Anna Lee"), ()), ListEntry("b", (), ("0x1",)))


def test_entry_is_another_version_as_soon_as_the_list_says_something_else_of_it() -> None:
    one = ListEntry("a", ("Ann Lee", "Anna Lee"), ())
    assert one.sha256 == ListEntry("a", ("Anna Lee", "Ann Lee"), ()).sha256
    assert one.sha256 != ListEntry("a", ("Ann Lee",), ()).sha256
    assert one.sha256 != ListEntry("a", one.names, ("0x1",)).sha256


def test_generated_list_has_the_size_of_a_real_one() -> None:
    found = read_list(ListSpec("big", "plain"), Names(3).list_of(17_000, 700))
    assert sum(len(e.names) for e in found.entries) >= 16_990, "a name drawn twice for an entry counts once"
    assert sum(len(e.addresses) for e in found.entries) == 700


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("plain", b""),
        ("plain", b"compline-list/1\tv\n"),
        ("plain", b"compline-list/2\tv\na\tname\tAnn"),
        ("plain", b"compline-list/1\tv\na\tname"),
        ("plain", b"compline-list/1\tv\na\tphone\t1"),
        ("plain", b"compline-list/1\tv\na\tname\t---"),
        ("plain", b"compline-list/1\tv v\na\tname\tAnn"),
        ("plain", b"compline-list/1\tv\na b\tname\tAnn"),
        ("plain", "compline-list/1\tv\na\taddress\t0xé".encode()),
        ("plain", b"compline-list/1\tv\na\tname\t\xff"),
        ("sdn_csv", b"<html>not found</html>"),
        ("sdn_csv", b'1,"A","individual"\r\n'),
        ("sdn_csv", SDN_CSV + SDN_CSV.replace(b"\x1a", b"")),
        ("sdn_xml", SDN_XML[:-200]),
        ("sdn_xml", SDN_XML.replace(b"<Record_Count>3", b"<Record_Count>4")),
        ("sdn_xml", SDN_XML.replace(b"03/01/2026", b"yesterday")),
        ("sdn_xml", SDN_XML.replace(b"<uid>36<", b"<uid>99<")),
        ("sdn_xml", b'<!DOCTYPE x [<!ENTITY a "b">]>' + SDN_XML),
        ("sdn_xml", b"<sdnList/>"),
    ],
)
def test_list_that_is_damaged_cut_short_or_empty_is_refused_whole(kind: str, raw: bytes) -> None:
    with pytest.raises(InputError, match="list l "):
        read_list(ListSpec("l", kind), raw)
