// Package driver is what a connector implements so that files can be published on it.
package driver
