"""HTTP's wire formats as pure functions: bytes in, values out. No sockets, no threads, no clock."""
