"""Vectors of element-wise products (token shift, r_k, ..): codebooks weighted by the activation that a vector is multiplied with.

codebooks.py    codebooks of least loss, those of the authors' code, and how both are stored
"""
