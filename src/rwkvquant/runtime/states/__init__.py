"""What a model remembers: files.py has the state of one sequence, and saves and loads it."""
