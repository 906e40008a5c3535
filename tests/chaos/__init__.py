"""Storms: real processes that are killed, stopped, cut off and replaced while a client computes.

Belongs here: what hurts a cluster (:mod:`schedule`, :mod:`faults`, :mod:`proxy`), what it is made
of (:mod:`cluster`, :mod:`registry`, :mod:`discovery`), what it computes (:mod:`work`,
:mod:`workload`) and what has to hold afterwards (:mod:`ledger`). Does not belong here: tests that
need one fault at a known moment; those are in ``tests/integration``.

``pytest tests/chaos --chaos-seeds 20`` runs more storms, ``--chaos-start 7`` others; a failure
names its seed, and the storm that it stands for.
"""
