"""The search methods, behind one ask/tell interface; deterministic and without I/O.

The package is not called `search`, because importing a submodule of that name would replace the
function `evomal.search`.
"""
