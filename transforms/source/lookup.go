package source

import "github.com/millrace-ml/millrace/transforms/source/driver"

// Lookup is the driver of an address, for tools and tests that read without a graph.
func Lookup(address string) (driver.Driver, error) { return driverOf(address) }
