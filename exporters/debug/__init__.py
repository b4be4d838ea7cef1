"""Hand a bundle to Polygraphy, and reduce a graph that a runtime computes wrongly to its fault.

    debug_bundle.py   the whole of `dinodeploy debug`
    material.py       golden inputs, reference outputs and commands in Polygraphy's format
    reduce.py         drive `polygraphy debug reduce`, write a report
    judge_part.py     the check of a part: `python -m exporters.debug.judge_part`, run once for each part

Polygraphy is imported when it is used (`pip install 'dinodeploy[debug]'`).
"""
