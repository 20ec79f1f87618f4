package sink

import "github.com/millrace-ml/millrace/transforms/internal/staged"

// Lookup is the driver of an address, a driver.Opener or driver.Publisher or both, for tools and tests that
// write without a graph.
func Lookup(address string) (any, error) { return staged.Driver(address) }
