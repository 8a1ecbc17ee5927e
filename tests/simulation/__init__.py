"""A deterministic simulation of the swarm: real nodes, real coordinators, a simulated machine and a simulated store.

Everything that runs here is the shipped code, but for what is at its edges: the host (clock, waits, threads), the
store below :class:`apiary_df.store.Store`, and the work of a task, which is reckoned on row ids instead of run by
DataFusion. One number, the seed, decides everything: what the swarm looks like, what is asked of it, what fails and
when, and who goes first wherever two could. The same seed gives the same run, request by request.

``python -m tests.simulation --seeds 100000`` runs many, ``--seed N --trace`` shows one.
"""
