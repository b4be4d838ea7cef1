"""Limits of the service that hold for all requests together.

budget.py        bytes of request bodies in memory         connections.py   connections and their times
hosts.py         host names that requests may name         log.py           lines per second in the log
"""
