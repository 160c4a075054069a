"""Automatic checks of the chapters' exercises, one module a chapter: properties
and hints, never the answer.
"""

__all__ = [
    "chapter00",
    "chapter01",
    "chapter02",
    "chapter03",
    "chapter04",
    "chapter05",
    "chapter06",
    "chapter07",
    "chapter08",
    "chapter09",
    "chapter11",
    "chapter12",
    "chapter13",
]
