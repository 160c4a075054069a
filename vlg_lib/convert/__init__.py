"""Every outside format, turned into the one layout that the library reads."""
