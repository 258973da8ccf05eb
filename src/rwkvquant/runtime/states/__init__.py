"""What a model remembers: pool.py has the slots that decode in place, files.py saves and loads the state of one sequence."""
