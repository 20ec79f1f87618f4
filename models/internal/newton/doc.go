// Package newton fits small logistic regressions: a calibration's two numbers, a stack's few.
package newton
