// Package link turns a model's sum into its output.
package link
