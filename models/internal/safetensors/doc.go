// Package safetensors reads and writes the safetensors format: eight bytes of header length (little
// endian), a JSON header that names dtype, shape and byte range of each tensor, and the raw values.
// Only F32 and F64 tensors are supported, which is all that our models store.
//
// The reader is strict: ranges must cover the data exactly, in order and without gaps, and shapes
// must agree with them. It allocates in proportion to its input.
//
// # Non-obvious
//
// The header is padded with spaces to a multiple of eight, so that a reader in another language can
// map the values. Names are written in byte order, so the same tensors give the same bytes.
package safetensors
