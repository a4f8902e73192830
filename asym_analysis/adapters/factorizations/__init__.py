"""What turns the tensors of a module into the two factors of its update: one callable a scheme.

A factorization is a pure, hashable, picklable callable: named tensors in, (A, B) of shapes (rank, d_in) and
(d_out, rank) out. It knows no names of files and no config; the key grammars in `dialects` choose it.
"""
