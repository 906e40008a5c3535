"""Peers by DNS: A, AAAA and SRV records.

Belongs here: asking name servers, and reading what they answer. Does not belong here: the
addresses of names that a dist dials (the system resolves those), and any other protocol that
happens to use port 53.

``message`` reads messages and ``options`` what a person wrote, both pure; ``peers`` turns records
into peers, pure; ``system`` reads ``resolv.conf``; ``transport`` has the sockets, ``decoder`` the
thread; ``resolver`` asks servers, along search lists and chains; ``discovery`` is
:class:`DnsDiscovery`.
"""

from gc_bootstrap.discovery.dns.discovery import DnsDiscovery

__all__ = ["DnsDiscovery"]
