"""The 3D network, how it labels a cloud, and the trained ones that come with
the library.
"""
