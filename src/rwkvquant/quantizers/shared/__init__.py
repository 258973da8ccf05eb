"""What several methods need.

factor.py        the factor of the damped inverse of H        inverse.py    the inverse of a triangular factor, by halves
hessian.py       H of one input, and its factors, made once   loss.py       the loss that all are compared by
residual.py      what is left of the loss, kept up to date    descent.py    codes to less loss, one after the other
columns.py       blocks of columns by the native module       clustering.py one-dimensional k-means
table_map.py     tables to weights, and least squares         correction.py what to aim at to make up for errors before
limits.py        the numbers that a file can hold
"""
