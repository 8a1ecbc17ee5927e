"""Random queries over random tables, and oracles that say whether the swarm's answers are right."""
