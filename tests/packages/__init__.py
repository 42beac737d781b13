"""Packages of filestoraged on machines that have nothing else. Run by bin/test-packages, not by bin/test."""
