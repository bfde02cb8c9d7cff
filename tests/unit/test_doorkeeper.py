"""Rank 0's port and strangers, with real sockets: 127.0.0.2 and its neighbours stand for other machines."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from worker_spec import make_info, make_spec

from hpcpar.errors import RunError
from hpcpar.records import Cause
from hpcpar.run_folder import RunFolder
from hpcpar.spec import RunSpec
from hpcpar.worker import addresses, rendezvous
from hpcpar.worker.doorkeeper import admit_only, filter_program
from hpcpar.worker.rank import RankInfo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters on sockets are Linux's")
ADDRESSES = {"n1": ["127.0.0.1"], "n2": ["127.0.0.3"], "n2i": ["127.0.0.4"]}


def _reaches(place: tuple[str, int], source: str) -> bool:
    try:
        socket.create_connection(place, 0.3, source_address=(source, 0)).close()
    except TimeoutError:
        return False
    return True


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one


def test_without_a_filter_everybody_reaches_the_port(listener: socket.socket) -> None:
    listener.listen()
    assert _reaches(listener.getsockname(), "127.0.0.2")


def test_only_these_addresses_reach_it(listener: socket.socket) -> None:
    admit_only(listener, ["127.0.0.3", "10.1.2.3", "::1", "127.0.0.9"])
    listener.listen()
    found = [n for n in range(1, 12) if _reaches(listener.getsockname(), f"127.0.0.{n}")]
    assert found == [3, 9]


def test_nobody_reaches_a_port_that_admits_nobody(listener: socket.socket) -> None:
    admit_only(listener, [])
    listener.listen()
    assert not _reaches(listener.getsockname(), "127.0.0.1")


@pytest.mark.parametrize(("admitted", "reached"), [("::1", True), ("::2", False), ("1::1", False)])
def test_the_longer_addresses(admitted: str, reached: bool) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with closing(listener):
        admit_only(listener, ["127.0.0.1", "5::5", admitted])
        try:
            socket.create_connection(listener.getsockname()[:2], 0.3).close()
        except TimeoutError:
            assert not reached
        else:
            assert reached


@pytest.mark.parametrize(("own", "first"), [("127.0.0.1", "10.0.0.0"), ("::1", "fd00::")])
def test_hundreds_of_nodes_are_a_filter_and_more_than_the_kernel_takes_an_error(own: str, first: str) -> None:
    nodes = [str(ipaddress.ip_address(first) + n) for n in range(2100)]
    with socket.socket(socket.AF_INET6 if ":" in own else socket.AF_INET) as listener:
        try:
            listener.bind((own, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        admit_only(listener, [own, *nodes[:400]])  # what the 20 KiB have room for that kernels gave until 6.8
        listener.listen()
        assert _reaches(listener.getsockname()[:2], own)
        with pytest.raises(OSError, match="longer than the kernel takes"):
            admit_only(listener, nodes)


def test_addresses_that_begin_alike_are_told_apart_by_their_last_word() -> None:
    nodes = [ipaddress.ip_address(f"fd00::{n:x}").packed for n in range(100)]
    other = ipaddress.ip_address("fd00:1::1").packed
    words = 3 * 3 + 1
    assert len(filter_program(socket.AF_INET6, [*nodes, other])) == 2 * words + 2 * 101 + 1


def test_a_kernel_without_room_is_told_by_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        family = socket.AF_INET

        def setsockopt(self, *_: object) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with pytest.raises(OSError, match=r"net\.core\.optmem_max .* 2 addresses"):
        admit_only(Full(), ["10.0.0.1", "10.0.0.2"])  # type: ignore[arg-type]


def test_the_same_address_twice_is_one_test_of_it(listener: socket.socket) -> None:
    assert len(filter_program(socket.AF_INET, [bytes(4)])) == 4
    admit_only(listener, ["127.0.0.1"] * 5000)


# ---------------------------------------------------------------- in a run


def _info(**changes: object) -> RankInfo:
    return make_info(**{"nodes": 2, "hostnames": ("n1", "n2"), "attempt": "7.0", "node_name": "n1", **changes})


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    monkeypatch.setattr(addresses, "_resolve", lambda name: ADDRESSES.get(name, []))
    return msgspec.structs.replace(make_spec(), closed_rendezvous=True, time_s=4.0)


@pytest.mark.parametrize(
    ("closed", "suffix", "reached"),
    [(True, "", [1, 3]), (True, "i", [1, 3, 4]), (False, "", [1, 2, 3, 4])],
    ids=["by name", "by both names", "open"],
)
def test_rank_0_lets_the_nodes_of_its_job_in(
    spec: RunSpec, tmp_path: Path, closed: bool, suffix: str, reached: list[int]
) -> None:
    spec = msgspec.structs.replace(spec, closed_rendezvous=closed, host_suffix=suffix)
    meeting = rendezvous.meet(spec, _info(), RunFolder(tmp_path))
    place = (meeting.place.host, meeting.place.port)
    assert [n for n in range(1, 5) if _reaches(place, f"127.0.0.{n}")] == reached
    other = rendezvous.meet(spec, _info(rank=1, node_name="n2"), RunFolder(tmp_path))
    other.tell("hello", b"from 1"), meeting.tell("hello", b"from 0")
    assert meeting.hear("hello") == [b"from 0", b"from 1"]


def test_a_node_that_is_not_let_in_says_why(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        admit_only(listener, ["127.0.0.3"])
        listener.listen()
        place = rendezvous.Place("127.0.0.1", listener.getsockname()[1])
        RunFolder(tmp_path).rendezvous_path("7.0").write_bytes(msgspec.json.encode(place))
        with pytest.raises(RunError, match=r"closed_rendezvous .* this is 127\.0\.0\.1") as error:
            rendezvous.meet(spec, _info(rank=1, node_name="n2"), RunFolder(tmp_path))
    assert error.value.cause is Cause.NETWORK


def test_a_node_without_a_name_has_the_address_that_slurm_uses(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "NodeName=n7 Arch=x86_64 CoresPerSocket=4 NodeAddr=n2 NodeHostName=n7 Version=22.05.8\n"
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\ntest \"$4\" = n7,n8 && printf '%s' '{told}'\n")
    (tmp_path / "scontrol").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    known, nameless = addresses.addresses_of_job(spec, _info(hostnames=("n1", "n7", "n8")), like="127.0.0.1")
    assert (known, nameless) == ({"127.0.0.1", "127.0.0.3"}, ["n8"])


@pytest.mark.parametrize("hostnames", [("n1", "n8"), tuple(f"m{n}" for n in range(30))])
def test_nodes_that_nobody_knows_are_an_error_that_names_them(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostnames: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"nobody knows those of (n8|m0, .*m19, \.\.\.)$"):
        rendezvous.meet(spec, _info(hostnames=hostnames), RunFolder(tmp_path))


def test_a_node_whose_address_is_of_another_family_counts_as_unknown(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(ADDRESSES, "n2", ["fd00::2"])
    with pytest.raises(RunError, match=r"nobody knows those of n2$"):
        rendezvous.meet(spec, _info(), RunFolder(tmp_path))


def test_rank_0_reaches_itself_where_its_name_is_a_second_loopback_address(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Debian's /etc/hosts has it: what the node says to 127.0.1.1 comes from 127.0.0.1."""
    monkeypatch.setitem(ADDRESSES, "n1", ["127.0.1.1"])
    meeting = rendezvous.meet(spec, _info(), RunFolder(tmp_path))
    meeting.share("topic", b"1")
    assert meeting.learn("topic") == b"1"
    assert not _reaches((meeting.place.host, meeting.place.port), "127.0.0.2")


def test_a_name_that_none_can_be_has_no_address() -> None:
    assert addresses._resolve("n" * 70) == []


def test_ranks_of_one_machine_meet_where_nobody_else_comes(spec: RunSpec, tmp_path: Path) -> None:
    meeting = rendezvous.meet(spec, _info(nodes=1, hostnames=("n8",)), RunFolder(tmp_path))
    assert meeting.place.host == "127.0.0.1"
