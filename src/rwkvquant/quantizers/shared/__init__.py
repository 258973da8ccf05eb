"""Parts that several methods use.

factor.py        the factor of the damped inverse of H        inverse.py    the inverse of a triangular factor, by halves
hessian.py       H of one input, and its factors, made once   loss.py       the loss that methods are compared by
residual.py      the error and its gradient, kept up to date  descent.py    codes to less loss, one after the other
columns.py       blocks of columns in the native module       clustering.py one-dimensional k-means
table_map.py     tables to weights, and least squares         correction.py targets that make up for earlier errors
limits.py        the numbers that a file can hold
"""
