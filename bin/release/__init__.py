"""What `bin/package` makes of the source: one file, wheel, sdist and container image; and the text of a release.

Standard library only, but for the wheel. The same commit makes the same bytes on every machine.
"""
