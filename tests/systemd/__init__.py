"""The service under a real systemd: what bin/test-systemd runs, inside its container."""
