"""The swarm on paper: the real planner and the real schedule over modelled storage, nodes and time.

``assumptions`` says what is assumed, ``profiles`` what a query was measured to need, ``storage`` what requests take,
``world`` runs a query in virtual time, ``figures`` tells what came out. ``benchmarks.simulate`` is the command.
"""
