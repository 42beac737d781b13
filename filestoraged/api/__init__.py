"""The interfaces, one page each: `routes(engine)` joins an engine to HTTP and decides nothing else."""
