# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: embedsignature=True, auto_pickle=False
# distutils: language=c++
"""The door to the C++ drivers: typed views in, the GIL released once, one call, typed views out.

Shapes are checked here because a wrong one would read foreign memory; everything that a user can get wrong is
checked, with better words, by the Python modules that call this one.
"""
# `&x[0, 0]` is the address of a view's data and reads nothing, so that it is right for an empty view too.

include "native.pxi"
include "kernels.pxi"
include "rotate.pxi"
include "rows.pxi"
include "scan.pxi"
include "binary.pxi"
include "pq.pxi"
include "assign.pxi"
include "plan.pxi"
include "graph.pxi"
include "maxsim.pxi"
include "row_file.pxi"
