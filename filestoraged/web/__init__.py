"""HTTP, whatever is stored: requests in, responses out, connections kept, parked and drained."""
