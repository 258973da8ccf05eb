"""What reads tokens: base.py has the protocol, native.py the fast engine, reference.py the plain one that it is tested against."""
