"""Every parser of ours on inputs that nobody meant: `make fuzz` for all of them, a small share in every test run.

`mutate.py` spoils valid inputs, `parsers.py` names the parsers with what each may raise, `run.py` counts. Structures
that a mutation seldom reaches are drawn in `test_properties.py`. An input that once failed is kept in
`regressions/PARSER/`.
"""
