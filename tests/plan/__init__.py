"""Tests of plans: codec, rules, stages, tasks, and a swarm without storage that runs them all."""
