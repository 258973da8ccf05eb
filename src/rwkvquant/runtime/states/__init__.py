"""States, which are what a model remembers.

pool.py has slots that decode in place, files.py saves and loads the state of one sequence, tuned.py begins with a file of other tools.
"""
