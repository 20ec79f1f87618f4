// Package shareddata finds the reference data that lies beside the repository, in ../shared/data.
// None of it is part of the project: a test that uses it skips where it is absent, unless
// MILLRACE_REQUIRE is set.
package shareddata
