"""GROUND: every null distribution, once. Knows nothing of the rest of the package, and needs numpy and scipy only.

`haar` has the moments of traces under a uniformly random rotation, `blocks` weighted samples of its corners and
`angles` of principal angles; `null`, `overlap`, `tabulated` and `spectral` the null distributions of similarities;
`retention` what a random sketch keeps of each principal component, `chain` what several in a row leave; `first_step`
the overlap that one gradient step gives; `noisy_fit` the information in a noisy least-squares fit, `noise_spectrum` the
largest singular values of noise.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
