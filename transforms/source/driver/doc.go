// Package driver is what a connector implements to be read from.
//
// A source is partitions; a partition has positions, which only its driver understands: bytes of a
// file, days of a simulation, later offsets of a log. The splittable DoFn of package source keeps
// ranges of positions and asks for them again after a fault, so reading the same range twice must
// give the same records.
//
// # Errors
//
// Errors reach people: they say what to do next, and name a partition by its Name.
package driver
