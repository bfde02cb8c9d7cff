"""The login-node wing: plan, render, submit, watch. Never imports torch, deepspeed, xgboost, dask or pandas."""
