"""∂L_T(θ_S)/∂φ: the gradient of the task loss after training steps, in the weights of a loss.

The gradient of Algorithm 1 flows through S_base differentiable optimiser steps with M_φ (paper,
section 3.3.1). There are three methods; the others are compared numerically with the first.

- `reverse` differentiates through the steps, for any S_base: double backward, the reference.
- `forward` is for S_base = 1, and needs one forward-mode product instead.
- `group` does the same for several losses that share computations.
"""
