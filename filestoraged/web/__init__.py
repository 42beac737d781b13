"""The HTTP server: connections, requests, responses and routes. Knows nothing of storage."""
