"""Machines out of what Slurm printed (slurm_outputs), and commands that print it again."""

from pathlib import Path

from hpcpar.control.cluster import answers as read
from hpcpar.control.cluster.detect import detect
from hpcpar.control.cluster.machine import Machine
from hpcpar.decode import decode, parse_toml
from hpcpar.profile import ClusterProfile

RECORDED = Path(__file__).with_name("slurm_outputs")
PARTS = ("config", "partition", "node", "qos", "assoc", "user")


def built(answers):
    config = read.parse_config(answers["config"])
    return Machine(
        config=config,
        partitions=read.parse_partitions(answers["partition"]),
        nodes=read.parse_nodes(answers["node"]),
        qos=read.parse_qos(answers["qos"]),
        associations=read.parse_associations(answers["assoc"], config.get("ClusterName", "")),
        default_account=read.parse_default_account(answers["user"]),
        silent=(),
    )


def recorded(version):
    return {part: (RECORDED / version / part).read_text() for part in PARTS}


def profile_of(found, name="here"):
    detected = detect(found, name, "2026-11-21")
    return decode(ClusterProfile, parse_toml(detected.text, name), name), detected.notes


def stubs(commands, version):
    """Put commands on PATH that answer as this machine does."""
    commands.borrow("cat")
    folder = RECORDED / version
    cases = f"""case "$*" in
*config*) cat {folder}/config;; *partition*) cat {folder}/partition;; *node*) cat {folder}/node;;
*qos*) cat {folder}/qos;; *assoc*) cat {folder}/assoc;; *user*) cat {folder}/user;; esac"""
    for name in ("scontrol", "sacctmgr"):
        commands.write(name, cases)
