"""What the two programs say to each other, and all that they share.

:mod:`gc_bootstrap.scheduler` lives inside a Dask scheduler, :mod:`gc_bootstrap.agent` on a worker
machine. Belongs here: their messages, encoded and decoded in one place; the tokens and the cookie
that secure them; the tag on a worker; the names of routes and RPCs; the registrations by which they
find each other on one host. Does not belong here: sockets, Dask, deciding anything.
"""
