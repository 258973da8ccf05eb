"""States, which are what a model remembers.

pool.py has slots that decode in place; files.py saves and loads the state of one sequence, and packs it for a rest; resting.py keeps those
of many sessions that wait; tuned.py begins with a file of other tools.
"""
