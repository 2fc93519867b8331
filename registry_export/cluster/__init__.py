"""Children on the machines of a Dask cluster: what `ChildPool` is on one machine.

`ClusterPool` sends a call to a Dask worker, where a plugin (`far`) has a `ChildPool` of its own: warm parents, walls
and limits are the same there. Through the scheduler go small JSON texts alone (`messages`); files go through an
artifact store, named by their SHA-256 (`parcels`, `cache`). What is done again after a lost worker, and how often, is
Dask's decision. `distributed` is imported by `far` and by `ClusterPool` when a scheduler is named, and by nobody else.
"""
