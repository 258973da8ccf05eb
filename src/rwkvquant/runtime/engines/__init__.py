"""What reads tokens: native.py is the fast engine, reference.py judges it and runs where the native module is missing."""
