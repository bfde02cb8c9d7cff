"""global_batch = micro_batch x grad_accum x data ranks, exactly; and every size that is offered does fit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.control.planning.batch_sizes import BatchSizes, split_batch
from hpcpar.errors import Problem
from hpcpar.mesh import Mesh

meshes = st.builds(Mesh, pp=st.integers(1, 6), dp_replicate=st.integers(1, 6), dp_shard=st.integers(1, 3))
batches = st.integers(1, 2000)
micro_batches = st.none() | st.integers(1, 40)


def offered(problem):
    """The sizes that a message offers."""
    found = re.search(r"sizes that fit: ([\d, ]+) \(", problem.fix)
    assert found, problem
    return [int(size) for size in found[1].split(", ")]


@given(batches, micro_batches, meshes)
def test_an_accepted_split_multiplies_back_to_the_global_batch(global_batch, micro_batch, mesh):
    sizes = split_batch(global_batch, micro_batch, mesh, "here")
    if isinstance(sizes, BatchSizes):
        assert sizes.micro_batch * sizes.grad_accum * mesh.data_ranks == global_batch == sizes.global_batch


@given(batches, st.integers(1, 40), meshes)
def test_an_accepted_split_keeps_the_micro_batch_that_was_asked_for(global_batch, micro_batch, mesh):
    sizes = split_batch(global_batch, micro_batch, mesh, "here")
    if isinstance(sizes, BatchSizes):
        assert sizes.micro_batch == micro_batch


@given(batches, micro_batches, meshes)
def test_an_accepted_split_feeds_every_stage_of_the_pipeline(global_batch, micro_batch, mesh):
    sizes = split_batch(global_batch, micro_batch, mesh, "here")
    if isinstance(sizes, BatchSizes):
        assert sizes.grad_accum >= mesh.pp


@given(batches, meshes)
def test_without_a_micro_batch_the_smallest_accumulation_that_halves_the_bubble_is_taken(global_batch, mesh):
    sizes = split_batch(global_batch, None, mesh, "here")
    if isinstance(sizes, BatchSizes):
        per_rank = global_batch // mesh.data_ranks
        fitting = [count for count in range(mesh.pp, per_rank + 1) if per_rank % count == 0]
        best = [count for count in fitting if count >= 2 * mesh.pp] or fitting
        assert sizes.grad_accum == (best[0] if mesh.pp > 1 else 1)


@given(batches, micro_batches, meshes)
def test_what_is_refused_has_no_split(global_batch, micro_batch, mesh):
    found = split_batch(global_batch, micro_batch, mesh, "here")
    if isinstance(found, Problem):
        per_rank, rest = divmod(global_batch, mesh.data_ranks)
        counts = [per_rank // micro_batch] if micro_batch else range(1, per_rank + 1)
        sizes = [(count, micro_batch or per_rank // count) for count in counts]
        assert rest or not any(count >= mesh.pp and count * size == per_rank for count, size in sizes)


@given(batches, micro_batches, meshes)
def test_the_offered_sizes_fit(global_batch, micro_batch, mesh):
    found = split_batch(global_batch, micro_batch, mesh, "here")
    if isinstance(found, Problem):
        sizes = offered(found)
        assert sizes
        assert all(isinstance(split_batch(size, micro_batch, mesh, "here"), BatchSizes) for size in sizes)


@given(batches, micro_batches, meshes)
def test_the_offered_sizes_stand_on_both_sides_as_near_as_the_multiples_do(global_batch, micro_batch, mesh):
    found = split_batch(global_batch, micro_batch, mesh, "here")
    if isinstance(found, Problem):
        unit = int(re.search(r"multiples of (\d+)", found.fix)[1])
        assert all(0 < abs(size - global_batch) <= unit for size in offered(found))
        assert any(size > global_batch for size in offered(found))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("per_rank", [2**31 - 1, 10**12], ids=["a large prime", "a million millions"])
def test_a_huge_batch_is_split_without_counting_up_to_it(per_rank):
    sizes = split_batch(per_rank, None, Mesh(pp=2), "here")
    # The smallest divisor of at least 4 = 2 x stages: of a prime it is the prime itself.
    assert sizes == BatchSizes(per_rank, *((1, per_rank) if per_rank % 2 else (per_rank // 4, 4)))
