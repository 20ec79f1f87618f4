// Package nested stores models among the files of others, and loads them by their kind.
package nested
