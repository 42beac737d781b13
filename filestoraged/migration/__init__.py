"""Copies everything that one daemon keeps to where another one will: objects, the bytes of drops, and databases.

The source is never changed. The target is to be served only afterwards.
"""
