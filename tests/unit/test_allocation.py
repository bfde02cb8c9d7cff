"""What is left of an account's hours, out of what `scontrol show assoc_mgr` prints, beside what would be submitted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.control.gate.allocation import Account, budget_findings, parse
from hpcpar.control.gate.checks import Case, Shot
from hpcpar.control.plan import Plan
from hpcpar.profile import ClusterProfile, NodeType
from hpcpar.spec import Resources

# Slurm 22.05.8, the project's test cluster, with limits put in; other fields are left out.
RECORDED = """Current Association Manager state

Association Records

ClusterName=hpcpar Account=root UserName= Partition= Priority=0 ID=1
    ParentAccount= Lft=1 DefAssoc=No
    GrpTRES=cpu=N(6),mem=N(6144),energy=N(0),node=N(3),billing=N(6),fs/disk=N(0),vmem=N(0),pages=N(0),gres/gpu=N(0)
    GrpTRESMins=cpu=N(0),mem=N(0),energy=N(0),node=600(60),billing=N(0),fs/disk=N(0),vmem=N(0),pages=N(0),gres/gpu=N(0)
ClusterName=hpcpar Account=lab UserName= Partition= Priority=0 ID=3
    ParentAccount=root(1) Lft=2 DefAssoc=No
    GrpTRESMins=cpu=1200(300),mem=N(0),energy=N(0),node=N(0),billing=9(9),fs/disk=N(0),vmem=N(0),pages=N(0),gres/gpu=N(0)
ClusterName=hpcpar Account=lab UserName=ann(1001) Partition= Priority=0 ID=5
    ParentAccount= Lft=3 DefAssoc=No
    GrpTRESMins=cpu=N(0),mem=N(0),energy=N(0),node=N(0),billing=N(0),fs/disk=N(0),vmem=N(0),pages=N(0),gres/gpu=240(0)
ClusterName=hpcpar Account=lab UserName=bob(1002) Partition= Priority=0 ID=6
    ParentAccount= Lft=5 DefAssoc=No
    GrpTRESMins=cpu=1(1)
"""


def findings(num_runs=1, *, hours=1.0, nodes=1, gpus=0, user="ann", accounts=None, whole_nodes=False):
    node_type = NodeType(usable_cpus=16, whole_nodes=whole_nodes)
    resources = Resources(nodes=nodes, ranks_per_node=2, cpus_per_rank=4, time_s=hours * 3600, gpus_per_node=gpus)
    profile = ClusterProfile(
        schema=1, name="c", description="", scheduler="slurm", default_node_type="n", node_types={"n": node_type}
    )
    case = Case(Plan((), ()), profile, "python", (Shot("", "", num_runs, resources, node_type),))
    found = budget_findings(case, parse(RECORDED) if accounts is None else accounts, "lab", user)
    return [(one.level, one.problem.where, one.problem.what) for one in found]


def test_what_is_left_is_the_limit_less_what_was_used():
    accounts = {(one.name, one.user): one for one in parse(RECORDED)}
    assert accounts["lab", ""] == Account("lab", "", "", "root", {"cpu": 900.0, "billing": 0.0})
    assert accounts["root", ""].left_min == {"node": 540.0}
    assert accounts["lab", "ann"].left_min == {"gres/gpu": 240.0}


def test_a_job_that_fits_is_no_finding():
    assert findings() == []


def test_a_job_that_its_account_cannot_pay_would_wait_for_ever():
    # 1 node x 8 CPUs x 2 h = 16 CPU-hours, 15 are left
    (error, _) = findings(hours=2)
    assert error[:2] == ("error", "account lab")
    assert error[2] == "one job may use 16.0 CPU-hours, and 15.0 are left: it would wait for ever"


def test_whole_nodes_are_charged_whole():
    assert findings(hours=1, whole_nodes=True)[0][2].startswith("one job may use 16.0 CPU-hours")


def test_all_jobs_together_are_a_warning_as_jobs_end_sooner():
    (warning,) = findings(num_runs=2)
    assert warning == ("warning", "account lab", "all jobs together may use 16.0 CPU-hours, and 15.0 are left")


def test_the_accounts_above_and_the_users_share_count_and_those_of_others_do_not():
    above = [one for one in findings(nodes=10, hours=1.0) if one[1] == "account root"]
    assert above[0][2] == "one job may use 10.0 node-hours, and 9.0 are left: it would wait for ever"
    share = [one for one in findings(gpus=4, hours=1.1) if "GPU" in one[2]]
    assert share[0][2] == "one job may use 4.4 GPU-hours, and 4.0 are left: it would wait for ever"
    assert findings(user="carl") == [], "bob's limit is bob's"
    assert findings(user="bob")[0][0] == "error"


@pytest.mark.parametrize("parent", ["lab", "other"])
def test_accounts_that_are_their_own_parents_end(parent):
    accounts = [Account("lab", "", "", parent, {"cpu": 1.0}), Account("other", "", "", "lab", {"cpu": 1.0})]
    assert {level for level, _, _ in findings(accounts=accounts)} == {"error", "warning"}


@given(st.lists(st.sampled_from(RECORDED.replace("\n", " \n ").split(" ")) | st.text(max_size=8), max_size=40))
def test_whatever_is_printed_it_is_read_or_left_out(words):
    accounts = parse(" ".join(words))
    for one in findings(accounts=accounts):
        assert one[0] in ("error", "warning")
