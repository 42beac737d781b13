"""Whether the tests catch faults: each mutation is one fault in the source, which tests that are named must notice."""
