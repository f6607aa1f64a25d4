"""The search methods, behind one ask/tell interface; deterministic and without I/O.

The package is not called `search`, as the public function `evomal.search` is: importing a
submodule of that name would replace the function.
"""
