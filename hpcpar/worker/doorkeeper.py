"""Who may speak to rank 0's port: the nodes of the job, where the profile asks for it.

PyTorch's store cannot ask its callers who they are, so the kernel does: a filter on the listening socket (Linux,
SO_ATTACH_FILTER in socket(7); classic BPF as in linux/filter.h) drops every packet that does not come from an address
of the job's nodes. A stranger gets no answer at all, as from a port that a firewall closes. Accepted connections
inherit the filter. It tells machines apart, not users: whoever is on one of the nodes is let in.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from collections.abc import Iterable

SO_ATTACH_FILTER = 26
"""asm-generic/socket.h; the socket module does not name it."""
_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: offsets from here on count from the start of the packet's IP header."""
_SOURCE = {socket.AF_INET: 12, socket.AF_INET6: 8}
"""Where the sender's address stands in that header, in bytes."""
_LOAD_WORD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
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
    listener.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(instructions))
    )


def filter_program(family: socket.AddressFamily, addresses: Iterable[bytes]) -> list[tuple[int, int, int, int]]:
    """Return the instructions (code, jump if true, jump if false, operand) that take these senders' packets only."""
    program = []
    for address in addresses:
        words = struct.unpack(f"!{len(address) // 4}I", address)
        for place, word in enumerate(words):
            source = _NETWORK_HEADER + _SOURCE[family] + 4 * place
            to_the_next = 2 * (len(words) - 1 - place) + 1  # jumps are relative to the instruction that follows
            program += [(_LOAD_WORD, 0, 0, source), (_EQUAL, 0, to_the_next, word)]
        program.append((_RETURN, 0, 0, _TAKE))
    return [*program, (_RETURN, 0, 0, _DROP)]
