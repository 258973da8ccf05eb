"""How fast a file runs here, and random models of released shapes to try it on. Needs no torch."""
