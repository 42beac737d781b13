"""The test runner: units of tests, each in a process of its own, several processes at a time."""
