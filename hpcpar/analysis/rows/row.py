"""One run as one row: what everything behind the reading of run folders works on."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from hpcpar.outcome import UNREADABLE

__all__ = ["MISSING", "UNREADABLE", "Row"]

MISSING = "missing"
"""State of a run that a batch names and that has no folder."""


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One run. Made by `reduce_run`, read by everything else of this wing; docs/metrics.md defines every field.

    Sizes are 0 where spec.json could not be read. Optional numbers are None where there is no evidence for them.
    """

    study: str
    run: str
    key: str = ""
    cluster: str = ""
    node_type: str = ""
    workload: str = ""
    workload_options: str = "{}"
    """Canonical JSON, so that equal options are equal text."""
    variant: str = ""
    """The workload options that tell it from other runs of its study, in words; "" where all have the same."""
    strategy: str = ""
    strategy_options: str = "{}"
    mesh: str = ""
    scaling: str = ""
    nodes: int = 0
    ranks: int = 0
    ranks_per_node: int = 0
    cpus_per_rank: int = 0
    gpus_per_node: int = 0
    """Devices of a node as the scheduler counts them; 0 where it has none."""
    repeat: int = 0
    seed: int = 0
    global_batch: int = 0
    micro_batch: int = 0
    grad_accum: int = 0
    sample_unit: str = "samples"
    steps_planned: int = 0
    warmup_steps: int = 0
    """Declared, or the least."""
    warmup_cut: int | None = None
    """Steps that were cut after all."""
    not_steady: bool = False
    """The step time was not steady after any warm-up that was looked for."""
    quick: bool = False
    """Shortened on purpose (`--quick`): to look, not to publish."""
    uses_cpu: bool = True
    code: str = ""
    """Version of hpcpar that planned it."""
    order: int = 0
    """Its place in the study as it was submitted."""
    pair: str = ""
    """Runs that shared an allocation for a comparison have the same word."""
    state: str
    cause: str = ""
    message: str = ""
    """Why it failed, or why it has no time, in words."""
    attempts: int = 0
    attempt: str = ""
    """The attempt whose steps were read, the last of them where the run went on from a checkpoint."""
    steps_measured: int = 0
    steps_used: int = 0
    too_few_steps: bool = False
    step_time_s: float | None = None
    step_time_p50_s: float | None = None
    step_time_trend: float | None = None
    """Relative change of the step time over the window, where it is more than chance."""
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    samples_per_s_per_rank: float | None = None
    tokens_per_s_per_rank: float | None = None
    data_wait_s: float | None = None
    data_wait_share: float | None = None
    loss_last: float | None = None
    whole_program: bool = False
    """Its one time is that of a program that said nothing of its steps."""
    evaluation_loss: float | None = None
    metric: str = ""
    metric_value: float | None = None
    loss_diverged: bool = False
    """It had a loss, and at the end none that was finite."""
    time_to_target_s: float | None = None
    samples_to_target: float | None = None
    peak_memory_bytes: int | None = None
    peak_device_bytes: int | None = None
    sum_memory_bytes: int | None = None
    """Peaks of all ranks, added up."""
    sum_device_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    memory_parameters_bytes: int | None = None
    """What a rank holds after its last step, of the rank that holds the most of it; so are the next four."""
    memory_gradients_bytes: int | None = None
    memory_optimizer_bytes: int | None = None
    memory_buffers_bytes: int | None = None
    memory_activations_bytes: int | None = None
    fabric_bus_bytes_per_s: float | None = None
    fabric_transports: str = ""
    load_balance: float | None = None
    slowest_host: str = ""
    pipeline_bubble: float | None = None
    """By the formula of its schedule."""
    cpu_utilisation: float | None = None
    device_utilisation: float | None = None
    clock_mhz: float | None = None
    """Of the slowest clock among its ranks, right after the training."""
    device_energy_j: float | None = None
    device_power_w: float | None = None
    machine_energy_j: float | None = None
    machine_power_w: float | None = None
    model_flops_per_s: float | None = None
    mfu: float | None = None
    """By PaLM's convention; the next two count otherwise."""
    mfu_with_embedding: float | None = None
    mfu_causal: float | None = None
    communication_s: float | None = None
    """Of steps after the training; so are the next five."""
    exposed_communication_s: float | None = None
    overlap: float | None = None
    compute_share: float | None = None
    noise_scale: float | None = None
    noise_scale_error: float | None = None
    reference_batch: int | None = None
    """The smallest global batch of the runs that this one is held against in the next three."""
    statistical_efficiency: float | None = None
    statistical_efficiency_estimate: float | None = None
    goodput_pollux: float | None = None
    processors: str = ""
    device_names: str = ""
    oversubscribed: bool = False
    shared_with: int = 0
    """Other runs that used one of its physical machines at the same time."""
    started: float | None = None
    ended: float | None = None
    phases: dict[str, float] = msgspec.field(default_factory=dict)
    hosts: str = ""
    machines: tuple[str, ...] = ()
    """Boot ids of the physical machines."""
    usable_cpus: int | None = None
    """The most CPUs that any rank might use."""
    predicted_step_s: float | None = None
    """What the plan expected of a step."""
    predicted_naive_s: float | None = None
    """The same with constant efficiency."""
    predicted_bytes: int | None = None
    """What the plan expected a rank's tensors to need."""
    rejected_lines: int = 0
    rejected_steps: int = 0
    duplicate_steps: int = 0
    skipped_updates: int = 0
    devices: str = ""
    """The kinds of device that its ranks used."""
    data: str = "{}"
    """What was trained on: name, size, digest, synthetic or not."""
    replayed_steps: int = 0
    claim: str = ""
    """What the documentation of an estimator promises of parallel work; "" for other workloads."""
    fit_s: float | None = None
    """Of an estimator: seconds of a fit, and of what follows it (the next)."""
    use_s: float | None = None
    threads: int | None = None
    """Of all ranks, or of all workers of a driver."""
    effective_time_ratio: float | None = None
    goodput_updates_per_s: float | None = None
    measured_node_h: float | None = None
    """Nodes times hours of all its attempts, by their own events; of a run that goes on, so far."""
    accounted_state: str = ""
    """What the scheduler's accounting says of its latest job; this and the next eight only where it knows every job."""
    accounted_elapsed_s: float | None = None
    accounted_nodes: int | None = None
    accounted_peak_bytes: int | None = None
    accounted_energy_j: float | None = None
    billed_node_h: float | None = None
    billed_device_h: float | None = None
    billed_units: float | None = None
    """Billed node-hours in the site's own unit, at the rate of its profile when it was planned."""
    billing_unit: str = ""
    versions: str = "{}"
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """True where the run is evidence: it reached its end and has a time."""
        return self.state == "done" and self.step_time_s is not None

    @property
    def wall_s(self) -> float | None:
        """Seconds from the first rank's start to the end."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def total_s(self) -> float | None:
        """Seconds from the scheduler's acceptance to the result: all phases together."""
        return sum(self.phases.values()) if self.phases else None
