"""What reads tokens: base.py has the protocol, native.py the fast engine, reference.py the one that judges it."""
