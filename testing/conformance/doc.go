// Package conformance holds every driver to what its seam promises, by one suite a seam: sources that are
// read to an end, logs, stores of files, targets of records, and registries of models.
//
// A driver is an entry in its suite's table: how to make a topic, a folder or a target of its own for a
// case, how to bring records there or to see what came, and what of the optional it can do. A driver needs
// no tests of its own for what stands in a suite. Drivers of systems run on real servers, from package
// components, where these are installed; with MILLRACE_REQUIRE=1 they have to be.
package conformance
