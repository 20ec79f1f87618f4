// Package builtin holds the use cases that come with Millrace, as the files that a user would write.
package builtin
