// Package components starts real servers for tests: Kafka, Redis, object stores, brokers, as children
// of the test that asks for them.
//
// A server listens on free ports of the loopback interface, keeps its data in the test's temporary
// folder, is ready when the call returns, and ends with the test. [Server.Kill] and [Server.Restart]
// are the faults: the same ports and the same data come back.
//
// # Installing
//
// A server's program comes from the package registries (Maven, Go modules, Debian), by the tools' own
// configuration, into a folder of the user's cache, millrace/components, or into that which
// MILLRACE_COMPONENTS names. A program that isn't there yet is installed only with MILLRACE_REQUIRE=1
// in the environment; otherwise the test is skipped, and says so.
//
// # Errors
//
// A server that doesn't start fails the test with the end of its log.
//
// # Non-obvious
//
// Each child has its own process group, and is killed by the kernel when the thread that started it
// ends: a test that panics or is killed leaves no server behind. Only Linux does that; elsewhere the
// tests are skipped.
//
// Ports lie below those that the kernel gives to outgoing connections: a client that tries to reach a
// killed server would sooner or later get the server's port as its own, and the server could not come
// back.
package components
