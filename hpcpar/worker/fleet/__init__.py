"""A driver's workers: Dask's, in jobs of their own on Slurm, in processes of this machine elsewhere."""
