"""Checks everything that is stored against its name: reads, compares, and puts aside. It stores nothing itself."""
