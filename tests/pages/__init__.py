"""Tests of the pages for people in a real Chromium."""
