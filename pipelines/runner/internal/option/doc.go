// Package option reads the options of a runner, written as name=value, into its struct of them.
package option
