"""The failure matrix: every fault at every place of the protocol, for every shape of query, as one table."""
