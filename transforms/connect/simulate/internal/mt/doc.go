// Package mt has the random numbers of NumPy's legacy generator and of Python's random module, so
// that what was simulated with those can be simulated again.
//
// Sources: Matsumoto and Nishimura 1998 (MT19937, with the initialisations of 2002-01-26); Marsaglia's
// polar method for normals; Knuth's multiplication method for Poisson numbers.
//
// # Non-obvious
//
// Products are converted to float64 before they are added, since Go may fuse x*y + z otherwise, and
// then give other digits on arm64 than on amd64. Logarithms and exponentials may differ from C's in
// the last bit; that shows only where a rounding is within 1e-13 of its edge.
package mt
