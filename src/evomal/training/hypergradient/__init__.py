"""∂L_T(θ_S)/∂φ: how a loss's weights change what its training steps make of a base learner.

The gradient of Algorithm 1 flows through S_base differentiable optimiser steps under M_φ (paper,
section 3.3.1). Three ways compute it; each is held, in numbers, to the first.

- `reverse` differentiates through the steps, for any S_base: double backward, the plain reference.
- `forward` is for S_base = 1, and needs one forward-mode product instead.
- `group` does the same for several losses that share what they can.
"""
