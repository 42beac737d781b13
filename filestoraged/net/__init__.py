"""A client of HTTP, for stores and for people: what another machine answers, received within bounds."""
