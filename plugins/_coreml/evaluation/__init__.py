"""Evaluates ML programs with NumPy, so that a package can be verified where Core ML is not.

`program` reads a package into steps, `execution` computes them, the other modules hold the operators, a
family each. What an operator computes is documented beside its definition in coremltools
(`coremltools.converters.mil.mil.ops.defs`, and https://apple.github.io/coremltools/source/). Arithmetic
is in float32; each result is rounded to the element type that the program gives it.
"""
