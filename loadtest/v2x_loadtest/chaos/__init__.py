"""The fault matrix: faults as a table, each under load against real brokers, and an audit as the verdict."""
