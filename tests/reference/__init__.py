"""The slow, literal model of the scheduler: the definition of correct for the fast one.

It imports nothing from kvsim. Letters and numbers such as A3 or W5 in docstrings name one rule each; a
module says at its top which letters it holds. Everything is lists and dicts, and time is spent freely.
"""
