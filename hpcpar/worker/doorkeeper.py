"""Who may speak to rank 0's port: the nodes of the job, where the profile asks for it.

PyTorch's store cannot ask its callers who they are, so the kernel does: a filter on the listening socket (Linux,
SO_ATTACH_FILTER in socket(7); classic BPF as in linux/filter.h) drops every packet that does not come from an address
of the job's nodes. A stranger gets no answer at all, as from a port that a firewall closes. Accepted connections
inherit the filter. It tells machines apart, not users: whoever is on one of the nodes is let in.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable

SO_ATTACH_FILTER = 26
"""asm-generic/socket.h; the socket module does not name it."""
_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: offsets from here on count from the start of the packet's IP header."""
_SOURCE = {socket.AF_INET: 12, socket.AF_INET6: 8}
"""Where the sender's address stands in that header, in bytes."""
_LOAD_WORD, _EQUAL, _JUMP, _RETURN = 0x20, 0x15, 0x05, 0x06
_DROP, _TAKE = 0, 0xFFFFFFFF
_MOST = 4096
"""Instructions of a filter (BPF_MAXINSNS)."""


def admit_only(listener: socket.socket, addresses: Iterable[str]) -> None:
    """Let only these addresses reach a listening socket; those of another family than its own are left out.

    Raises:
        OSError: the kernel takes no such filter, or none that is so long.
    """
    family = socket.AddressFamily(listener.family)
    size = 4 if family is socket.AF_INET else 16
    packed = {ipaddress.ip_address(address).packed for address in addresses}
    program = filter_program(family, sorted(one for one in packed if len(one) == size))
    if len(program) > _MOST:
        raise OSError(f"a filter for {len(packed)} addresses is longer than the kernel takes")
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    # struct sock_fprog: the length, then a pointer, with the padding of the machine.
    pointed_at = struct.pack("@HP", len(program), ctypes.addressof(instructions))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointed_at)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        what = f"net.core.optmem_max of this machine has no room for a filter for {len(packed)} addresses"
        raise OSError(errno.ENOMEM, what) from error


def filter_program(family: socket.AddressFamily, addresses: Iterable[bytes]) -> list[tuple[int, int, int, int]]:
    """Return the instructions (code, jump if true, jump if false, operand) that take these senders' packets only.

    A load costs several instructions of the kernel's own, whose room is little (`net.core.optmem_max`): addresses that
    begin alike, as those of a cluster do, are told apart by their last word alone.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for address in addresses:
        *start, last = struct.unpack(f"!{len(address) // 4}I", address)
        groups[tuple(start)].append(last)
    program = []
    for alike, lasts in groups.items():
        source = _NETWORK_HEADER + _SOURCE[family]
        here = [(_LOAD_WORD, 0, 0, source + 4 * len(alike))]
        here += [one for last in lasts for one in ((_EQUAL, 0, 1, last), (_RETURN, 0, 0, _TAKE))]
        for place in reversed(range(len(alike))):  # jumps count from the instruction that follows
            here[:0] = [(_LOAD_WORD, 0, 0, source + 4 * place), (_EQUAL, 1, 0, alike[place]), (_JUMP, 0, 0, len(here))]
        program += here
    return [*program, (_RETURN, 0, 0, _DROP)]
