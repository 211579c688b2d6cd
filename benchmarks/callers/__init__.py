"""Clients that ask our server, one a file, each run by the interpreter that has its packages."""
