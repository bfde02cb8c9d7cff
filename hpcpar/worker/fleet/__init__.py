"""A driver's workers: Dask's, in a job of their own on Slurm, in processes of this machine elsewhere."""
