"""Where objects are kept. Knows nothing of HTTP; see `contract` for what every backend promises."""
