"""The schedulers of the publications that Lengthwise grew from, reproduced and then corrected.

SSJF (Qiu et al., arXiv 2404.08509): `ssjf_*`. Sequence scheduling (Zheng et al., arXiv 2305.13144):
`grouping` and `seqsch_*`. Probabilistic length modelling (Zhang et al., ICDE 2025): `problen*`.
`rows.py` makes the rows of `lengthwise lab table` out of them; docs/lab-seeds.md explains those.
"""
