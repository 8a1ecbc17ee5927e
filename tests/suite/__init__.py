"""Suites of queries whose answers on a swarm must be plain DataFusion's, row for row.

``model`` says what a suite is, ``harness`` runs a query both ways and judges it, ``report`` counts, ``catalogue`` names
the suites; each suite has a module or package of its own. All of it runs with
``python -m tests.suite``; ``make test`` runs each query at some of the partition counts (``test_suites``).
"""
