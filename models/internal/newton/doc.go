// Package newton fits small logistic regressions: a calibration's two numbers, a stack's few. It also
// has the Cholesky factorisation that this takes.
package newton
