"""Workloads of the kind "estimator" under the strategies that can spread them over the CPUs of one node."""
