"""An interface and a backend that the program does not have, as additions to it: a module each."""
