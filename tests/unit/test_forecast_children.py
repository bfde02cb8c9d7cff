"""What a child process may take."""

from __future__ import annotations

import resource

import pytest

from hpcpar.control.forecast import children


@pytest.mark.parametrize(
    ("hard", "left"),
    [
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (children.CPU_S, children.MEMORY_BYTES)),
        ((3600, 2**40), (children.CPU_S, children.MEMORY_BYTES)),
        ((30, 2**30), (30, 2**30)),
    ],
)
def test_a_child_takes_no_more_than_the_login_node_allows(
    monkeypatch: pytest.MonkeyPatch, hard: tuple[int, int], left: tuple[int, int]
) -> None:
    ends = {resource.RLIMIT_CPU: hard[0], resource.RLIMIT_AS: hard[1], resource.RLIMIT_CORE: resource.RLIM_INFINITY}
    limits = dict(ends)

    def lower(which: int, both: tuple[int, int]) -> None:
        if ends[which] != resource.RLIM_INFINITY and both[1] > ends[which]:
            raise ValueError("not allowed to raise maximum limit")
        limits[which], ends[which] = both

    monkeypatch.setattr(children.resource, "getrlimit", lambda which: (limits[which], ends[which]))
    monkeypatch.setattr(children.resource, "setrlimit", lower)
    children._bound()
    assert (limits[resource.RLIMIT_CPU], limits[resource.RLIMIT_AS], limits[resource.RLIMIT_CORE]) == (*left, 0)
