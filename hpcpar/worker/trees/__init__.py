"""Workloads of the kind "boosting" under the strategies that can spread them. Imports xgboost inside functions only."""
