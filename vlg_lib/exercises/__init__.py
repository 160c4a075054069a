"""Automatic checks of the chapters' exercises, one module a chapter: properties
and hints, never the answer.
"""
