"""The table of faults, README.md: every fault the service promises to survive, and the tests that show it."""
